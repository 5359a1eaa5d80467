<?php
// A PHP client of the `line` protocol: one request per connection, every byte of the reply compared.
// Arguments: PORT COUNT.
declare(strict_types=1);

[, $port, $count] = $argv;
for ($number = 0; $number < (int) $count; $number++) {
    $request = 'echo ' . bin2hex(random_bytes(random_int(16, 5000))) . "\n";
    $socket = fsockopen('127.0.0.1', (int) $port, $code, $text, 10.0);
    if ($socket === false) {
        throw new RuntimeException("connect: $text");
    }
    stream_set_timeout($socket, 30);
    if (fwrite($socket, $request) !== strlen($request)) {
        throw new RuntimeException('short write');
    }
    if (fgets($socket) !== $request) {
        throw new RuntimeException('a reply of somebody else');
    }
    fclose($socket);
}
echo "$count right\n";
