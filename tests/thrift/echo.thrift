// What the peers of the Thrift tests speak.
namespace go echo
namespace php Echoes
namespace rb Echoes
namespace perl Echoes

exception Refused { 1: string why }

struct Item {
  1: i32 number,
  2: string text,
  3: list<i64> numbers,
  4: map<string, i32> counts,
  5: bool flag,
  6: double ratio,
  7: list<list<string>> words,
}

service Echo {
  // Gives the item back; a negative number is refused.
  Item echo(1: Item item) throws (1: Refused refused),
  oneway void note(1: string text),
}
