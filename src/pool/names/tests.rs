//! Names in paused time, with a resolver that follows a script.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use tokio::sync::oneshot;

use super::*;
use crate::events::ResolveResult;

/// What the resolver says next of a name.
enum Line {
    Finds(Vec<Found>, Option<Duration>),
    Fails,
    Panics,
    /// Says it when told to.
    Hangs(oneshot::Receiver<Vec<Found>>),
}

#[derive(Default)]
struct Script {
    lines: Mutex<HashMap<String, VecDeque<Line>>>,
    /// Every name that was asked for, and when.
    asked: Mutex<Vec<(String, Instant)>>,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Script")
    }
}

impl Resolver for Script {
    fn resolve(&self, name: &Address) -> Resolving {
        let name = name.to_string();
        let line = self.lines.lock().unwrap().get_mut(&name).and_then(VecDeque::pop_front);
        self.asked.lock().unwrap().push((name, Instant::now()));
        Box::pin(async move {
            match line {
                Some(Line::Finds(found, ttl)) => Ok(Answer { found, ttl }),
                Some(Line::Fails) => Err(io::Error::other("nobody knows")),
                Some(Line::Panics) => panic!("a bug"),
                Some(Line::Hangs(says)) => Ok(Answer { found: says.await.unwrap(), ttl: None }),
                None => Ok(Answer::default()),
            }
        })
    }
}

struct World {
    names: Names,
    script: Arc<Script>,
    events: Arc<events::Upstream>,
}

const RESOLVE: Duration = Duration::from_secs(30);

fn endpoint(address: &str) -> Endpoint {
    Endpoint::from(address.parse::<Address>().unwrap())
}

fn found(address: &str) -> Found {
    Found::from(address.parse::<SocketAddr>().unwrap())
}

fn finds<const N: usize>(addresses: [&str; N]) -> Line {
    Line::Finds(addresses.map(found).to_vec(), None)
}

impl World {
    fn new(endpoints: &[Endpoint]) -> Self {
        let (script, events) = (Arc::new(Script::default()), Arc::new(events::Upstream::new("u")));
        let names = Names::new(endpoints, RESOLVE, script.clone(), events.clone());
        Self { names, script, events }
    }

    fn says(&self, name: &str, line: Line) {
        self.script.lines.lock().unwrap().entry(name.into()).or_default().push_back(line);
    }

    /// What comes of the look-up that is due next, which may be later.
    async fn hear(&mut self) -> Heard {
        tokio::time::sleep_until(self.names.next_at().unwrap()).await;
        self.names.start_due(Instant::now());
        self.names.next().await
    }

    /// Whether no look-up ends within `time`.
    async fn is_quiet(&mut self, time: Duration) -> bool {
        self.names.start_due(Instant::now());
        timeout(time, self.names.next()).await.is_err()
    }

    fn shown(&self) -> Vec<String> {
        let mut endpoints = self.names.endpoints();
        self.names.bound(&mut endpoints);
        endpoints.iter().map(Endpoint::to_string).collect()
    }

    /// The times of the look-ups of a name.
    fn asked(&self, name: &str) -> Vec<Instant> {
        let asked = self.script.asked.lock().unwrap();
        asked.iter().filter(|(asked, _)| asked == name).map(|(_, at)| *at).collect()
    }

    fn counted(&self) -> (u64, u64) {
        let of = |result| self.events.resolves.of(result).get();
        (of(ResolveResult::Ok), of(ResolveResult::Failed))
    }
}

fn is_missing(heard: &Heard) -> bool {
    matches!(heard, Heard::Missing { .. })
}

#[tokio::test(start_paused = true)]
async fn every_address_of_a_name_is_an_endpoint_in_a_fixed_order() {
    let spare = Endpoint { weight: 3, backup: true, ..endpoint("b:2") };
    let mut w = World::new(&[endpoint("a:1"), endpoint("10.0.0.9:1"), spare, endpoint("unix:/s")]);
    assert_eq!(w.shown(), ["10.0.0.9:1", "unix:/s"]);
    w.says("a:1", finds(["10.0.0.10:1", "10.0.0.2:1", "10.0.0.2:1"]));
    w.says("b:2", finds(["[2001:db8::1]:2"]));
    assert_eq!((w.hear().await, w.names.next().await), (Heard::Changed, Heard::Changed));
    let shown = ["10.0.0.2:1", "10.0.0.10:1", "10.0.0.9:1", "[2001:db8::1]:2 (weight 3, backup)", "unix:/s"];
    assert_eq!(w.shown(), shown);
    assert_eq!(w.counted(), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn fixed_addresses_are_never_looked_up() {
    let w = World::new(&["127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/s"].map(endpoint));
    assert_eq!((w.names.next_at(), w.shown().len()), (None, 4));
}

#[tokio::test(start_paused = true)]
async fn an_address_that_comes_twice_is_what_it_is_first() {
    let spare = Endpoint { backup: true, ..endpoint("b:1") };
    let mut w = World::new(&[endpoint("a:1"), spare, endpoint("10.0.0.3:1")]);
    w.says("a:1", finds(["10.0.0.1:1", "10.0.0.2:1"]));
    w.says("b:1", finds(["10.0.0.2:1", "10.0.0.3:1"]));
    w.hear().await;
    w.names.next().await;
    assert_eq!(w.shown(), ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1 (backup)"]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_weighs_on_top_of_the_name() {
    let mut w = World::new(&[Endpoint { weight: 2, ..endpoint("srv:_a._tcp.b") }]);
    let heavy = Found { weight: 10, ..found("10.0.0.1:1") };
    let spare = Found { backup: true, ..found("10.0.0.2:2") };
    w.says("srv:_a._tcp.b", Line::Finds(vec![spare, heavy], None));
    w.hear().await;
    assert_eq!(w.shown(), ["10.0.0.1:1 (weight 20)", "10.0.0.2:2 (weight 2, backup)"]);
}

#[tokio::test(start_paused = true)]
async fn names_are_looked_up_again_and_a_change_is_heard_of() {
    let mut w = World::new(&[endpoint("a:1")]);
    w.says("a:1", finds(["10.0.0.1:1", "10.0.0.2:1"]));
    w.says("a:1", finds(["10.0.0.2:1", "10.0.0.1:1"]));
    w.says("a:1", finds(["10.0.0.2:1", "10.0.0.3:1"]));
    let heard = [w.hear().await, w.hear().await, w.hear().await];
    assert_eq!(heard, [Heard::Changed, Heard::Same, Heard::Changed]);
    assert_eq!(w.shown(), ["10.0.0.2:1", "10.0.0.3:1"]);
    for gap in w.asked("a:1").windows(2).map(|pair| pair[1] - pair[0]) {
        assert!(gap >= RESOLVE * 9 / 10 && gap <= RESOLVE + Duration::from_millis(1), "{gap:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn hosts_do_not_ask_together() {
    let mut gaps = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let mut w = World::new(&[endpoint("a:1")]);
        w.says("a:1", finds(["10.0.0.1:1"]));
        w.hear().await;
        gaps.insert(w.names.next_at().unwrap() - Instant::now());
    }
    assert!(gaps.len() > 10, "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_holds_as_long_as_it_says_but_a_second() {
    let mut w = World::new(&[endpoint("a:1")]);
    // Where an answer does not say, the last one that did counts.
    for (ttl, longest) in [(None, 30), (Some(10), 10), (None, 10), (Some(0), 1), (Some(3600), 30)] {
        w.says("a:1", Line::Finds(vec![found("10.0.0.1:1")], ttl.map(Duration::from_secs)));
        w.hear().await;
        let pause = w.names.next_at().unwrap() - Instant::now();
        let longest = Duration::from_secs(longest);
        assert!(pause <= longest && pause >= (longest * 9 / 10).max(PAUSE), "{ttl:?}: {pause:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_answer_stays_when_look_ups_fail_or_find_nothing() {
    let mut w = World::new(&[endpoint("a:1")]);
    w.says("a:1", finds(["10.0.0.1:1"]));
    w.says("a:1", Line::Fails);
    w.says("a:1", Line::Panics);
    w.says("a:1", finds([]));
    w.hear().await;
    for _ in 0..3 {
        assert_eq!((w.hear().await, w.shown()), (Heard::Same, vec!["10.0.0.1:1".to_owned()]));
    }
    assert_eq!(w.counted(), (1, 3));
    w.says("a:1", finds(["10.0.0.2:1"]));
    assert_eq!((w.hear().await, w.shown()), (Heard::Changed, vec!["10.0.0.2:1".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_name_without_an_address_is_looked_up_again_after_growing_pauses() {
    let mut w = World::new(&[endpoint("a:1")]);
    w.says("a:1", Line::Fails);
    let first = w.hear().await;
    assert!(matches!(&first, Heard::Missing { fault, .. } if fault == "nobody knows"), "{first:?}");
    for _ in 0..40 {
        assert!(is_missing(&w.hear().await));
    }
    let asked = w.asked("a:1");
    let longest = asked.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest > Duration::from_secs(1) && longest <= Duration::from_secs(6), "{longest:?}");
    w.names.shorten(Instant::now());
    assert!(w.names.next_at().unwrap() <= Instant::now() + Duration::from_secs(1));
    w.says("a:1", finds(["10.0.0.1:1"]));
    assert_eq!(w.hear().await, Heard::Changed);
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_holds_up_no_other_and_is_asked_once() {
    let mut w = World::new(&[endpoint("a:1"), endpoint("b:1")]);
    let (say, says) = oneshot::channel();
    w.says("a:1", Line::Hangs(says));
    w.says("b:1", finds(["10.0.0.2:1"]));
    assert_eq!(w.hear().await, Heard::Changed);
    // It is missed once, however long it takes.
    assert!(is_missing(&w.names.next().await));
    assert!(w.is_quiet(RESOLVE * 9 / 10).await);
    assert_eq!((w.asked("a:1").len(), w.counted()), (1, (1, 1)));
    say.send(vec![found("10.0.0.1:1")]).unwrap();
    assert_eq!(w.names.next().await, Heard::Changed);
    assert_eq!(w.shown(), ["10.0.0.1:1", "10.0.0.2:1"]);
}

#[tokio::test(start_paused = true)]
async fn a_late_failure_is_not_counted_again() {
    let mut w = World::new(&[endpoint("a:1")]);
    let (say, says) = oneshot::channel();
    w.says("a:1", Line::Hangs(says));
    assert!(is_missing(&w.hear().await));
    say.send(Vec::new()).unwrap();
    assert!(w.is_quiet(PATIENCE).await);
    assert_eq!(w.counted(), (0, 1));
    assert!(is_missing(&w.hear().await));
    assert_eq!(w.counted(), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_failed_connect_hurries_its_name_once_a_second() {
    let mut w = World::new(&[endpoint("a:1"), endpoint("b:1")]);
    w.says("a:1", finds(["10.0.0.1:1"]));
    w.says("b:1", finds(["10.0.0.2:1"]));
    w.hear().await;
    w.names.next().await;
    let failed = "10.0.0.1:1".parse().unwrap();
    for _ in 0..3 {
        w.names.hurry(&failed, Instant::now());
        w.says("a:1", finds(["10.0.0.1:1"]));
        w.hear().await;
    }
    let asked = w.asked("a:1");
    let gaps: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.len() == 3 && gaps.iter().all(|gap| (PAUSE..PAUSE * 2).contains(gap)), "{gaps:?}");
    assert_eq!(w.asked("b:1").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_retune_keeps_the_answers_of_names_that_stay() {
    let mut w = World::new(&[endpoint("a:1"), endpoint("b:1"), endpoint("c:1")]);
    w.says("a:1", finds(["10.0.0.1:1"]));
    let (_say, says) = oneshot::channel();
    w.says("c:1", Line::Hangs(says));
    w.hear().await;
    w.names.next().await;
    w.names.set(&[endpoint("d:1"), Endpoint { weight: 2, ..endpoint("a:1") }], Duration::from_secs(3));
    assert_eq!(w.shown(), ["10.0.0.1:1 (weight 2)"]);
    (0..2).for_each(|_| w.says("d:1", finds(["10.0.0.4:1"])));
    assert_eq!(w.hear().await, Heard::Changed);
    assert_eq!(w.shown(), ["10.0.0.4:1", "10.0.0.1:1 (weight 2)"]);
    // Nothing is heard of those that left; what stayed is asked as often as is said now.
    w.says("a:1", finds(["10.0.0.1:1"]));
    let started = Instant::now();
    assert_eq!((w.hear().await, w.hear().await), (Heard::Same, Heard::Same));
    assert!(started.elapsed() <= Duration::from_millis(3001));
    assert_eq!((w.asked("a:1").len(), w.asked("b:1").len(), w.asked("c:1").len()), (2, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn endpoints_are_bounded_whatever_is_answered() {
    let mut w = World::new(&[endpoint("a:1"), endpoint("10.9.9.9:1")]);
    let many = (0..3000u32).map(|n| Found::from(SocketAddr::from(((0x0a00_0000 + n).to_be_bytes(), 1))));
    w.says("a:1", Line::Finds(many.rev().collect(), None));
    w.hear().await;
    let shown = w.shown();
    assert_eq!((shown.len(), &*shown[0]), (MAX_ENDPOINTS, "10.0.0.0:1"));
}

#[test]
fn few_addresses_are_told_and_the_rest_counted() {
    let addresses: Vec<_> = (1..=10).map(|n| found(&format!("10.0.0.{n}:1"))).collect();
    assert_eq!(List(&addresses[..2]).to_string(), "10.0.0.1:1, 10.0.0.2:1");
    assert!(List(&addresses).to_string().ends_with(", 10.0.0.8:1 and 2 more"));
}
