<?php
// A PHP client of echo.thrift: one connection after the other, every value and every seqid compared.
//
// Arguments: LIBRARY PORT COUNT TRANSPORT ENCODING. LIBRARY is plain or accelerated (with the extension thrift_protocol).
use Echoes\{EchoClient, Item, Refused};
use Thrift\Transport\{TBufferedTransport, TFramedTransport, TSocket};

[, $library, $port, $count, $transport, $encoding] = $argv;

spl_autoload_register(function (string $class) {
    $file = str_replace('\\', '/', $class) . '.php';
    $folder = str_starts_with($class, 'Thrift\\') ? '/usr/lib/php/' : getenv('CODE') . '/';
    require $folder . preg_replace('/^Thrift\//', '', $file);
});

// The library does not look at the seqid of a reply.
trait Checked
{
    private int $sent = 0;

    public function writeMessageBegin($name, $type, $seqid)
    {
        $this->sent = [0, 1, random_int(0, 2 ** 31 - 1)][random_int(0, 2)];
        return parent::writeMessageBegin($name, $type, $this->sent);
    }

    public function readMessageBegin(&$name, &$type, &$seqid)
    {
        $read = parent::readMessageBegin($name, $type, $seqid);
        $seqid === $this->sent || throw new Exception("seqid $seqid where $this->sent was sent");
        return $read;
    }
}

class Binary extends Thrift\Protocol\TBinaryProtocol { use Checked; }
class Compact extends Thrift\Protocol\TCompactProtocol { use Checked; }

function word(): string
{
    return str_repeat(bin2hex(random_bytes(3)), random_int(0, 5));
}

function item(): Item
{
    return new Item([
        'number' => random_int(0, 2 ** 31 - 1),
        'text' => random_int(0, 20) ? word() : str_repeat('x', 20000),
        'numbers' => [random_int(PHP_INT_MIN, PHP_INT_MAX), 7],
        'counts' => ['a' . word() => random_int(0, 1000)],
        'flag' => random_int(0, 1) === 1,
        'ratio' => random_int(0, 1000) / 7,
        'words' => array_fill(0, random_int(0, 16), [word(), word()]),
    ]);
}

// The extension reads and writes messages itself, seqids included.
$accelerated = $library === 'accelerated';
$accelerated && !extension_loaded('thrift_protocol') && exit('no extension thrift_protocol');
for ($number = 0; $number < $count; $number++) {
    $socket = new TSocket('127.0.0.1', (int) $port);
    $socket->setRecvTimeout(30000);
    $wrapped = $transport === 'framed' ? new TFramedTransport($socket) : new TBufferedTransport($socket);
    $protocol = match (true) {
        $accelerated => new Thrift\Protocol\TBinaryProtocolAccelerated($wrapped),
        $encoding === 'binary' => new Binary($wrapped),
        default => new Compact($wrapped),
    };
    $client = new EchoClient($protocol);
    $wrapped->open();
    $item = item();
    $client->echo($item) == $item || throw new Exception('a reply of somebody else');
    if ($number % 5 === 0) {
        $why = word();
        try {
            $client->echo(new Item(['number' => -1, 'text' => $why]));
            throw new Exception('not refused');
        } catch (Refused $refused) {
            $refused->why === $why || throw new Exception('the exception of somebody else');
        }
    }
    if ($number % 5 === 1) {
        $client->note((string) $number);
    }
    $wrapped->close();
}
echo "$count right\n";
