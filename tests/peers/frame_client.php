<?php
// A PHP client of the `frame` protocol: one request per connection, every byte of the reply compared.
// Arguments: PORT COUNT. The frame: length (4), flags (1), zeros (3), id (8), payload.
declare(strict_types=1);

function read_exactly($socket, int $size): string
{
    $bytes = '';
    while (strlen($bytes) < $size) {
        $part = fread($socket, $size - strlen($bytes));
        if ($part === false || $part === '') {
            throw new RuntimeException('the connection ended after ' . strlen($bytes) . ' bytes');
        }
        $bytes .= $part;
    }
    return $bytes;
}

[, $port, $count] = $argv;
for ($number = 0; $number < (int) $count; $number++) {
    $payload = random_bytes(random_int(16, 20000));
    $socket = fsockopen('127.0.0.1', (int) $port, $code, $text, 10.0);
    if ($socket === false) {
        throw new RuntimeException("connect: $text");
    }
    stream_set_timeout($socket, 30);
    $request = pack('NCx3J', strlen($payload), 0, $number) . $payload;
    if (fwrite($socket, $request) !== strlen($request)) {
        throw new RuntimeException('short write');
    }
    $header = unpack('Nlength/Cflags/x3/Jid', read_exactly($socket, 16));
    if ($header !== ['length' => strlen($payload), 'flags' => 0, 'id' => $number]) {
        throw new RuntimeException('header ' . json_encode($header));
    }
    if (read_exactly($socket, strlen($payload)) !== $payload) {
        throw new RuntimeException('a reply of somebody else');
    }
    fclose($socket);
}
echo "$count right\n";
