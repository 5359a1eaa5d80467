# A Perl client of echo.thrift: one connection after the other, values and every seqid compared.
#
# Arguments: PORT COUNT TRANSPORT. The library knows the binary encoding.
use strict;
use warnings;
use Thrift::Socket;
use Thrift::FramedTransport;
use Thrift::BufferedTransport;
use Thrift::BinaryProtocol;
use Echoes::Echo;

# The library does not look at the seqid of a reply.
package Checked;
use parent -norequire, 'Thrift::BinaryProtocol';

sub writeMessageBegin {
    my ($self, $name, $type) = @_;
    $self->{sent} = int(rand(2**31));
    return $self->SUPER::writeMessageBegin($name, $type, $self->{sent});
}

sub readMessageBegin {
    my ($self, $name, $type, $seqid) = @_;
    my $read = $self->SUPER::readMessageBegin($name, $type, $seqid);
    die "seqid $$seqid where $self->{sent} was sent\n" if $$seqid != $self->{sent};
    return $read;
}

package main;

my ($port, $count, $transport) = @ARGV;

sub word { return join '', map { chr(97 + int rand 26) } 0 .. int rand 30 }

for my $number (0 .. $count - 1) {
    my $socket = Thrift::Socket->new('127.0.0.1', $port);
    $socket->setRecvTimeout(30_000);
    my $wrapped = $transport eq 'framed' ? Thrift::FramedTransport->new($socket) : Thrift::BufferedTransport->new($socket);
    my $client = Echoes::EchoClient->new(Checked->new($wrapped));
    $wrapped->open();
    my %sent = (number => int(rand(2**31)), text => rand(20) < 1 ? 'x' x 20_000 : word(), words => [[word(), word()], []]);
    my $got = $client->echo(Echoes::Item->new({ %sent, numbers => [1, -2], counts => { word() => 3 } }));
    die "a reply of somebody else\n" if $got->{number} != $sent{number} || $got->{text} ne $sent{text};
    die "other words\n" if "@{$got->{words}[0]}" ne "@{$sent{words}[0]}" || "@{$got->{numbers}}" ne '1 -2';
    if ($number % 5 == 0) {
        my $why = word();
        my $refused = eval { $client->echo(Echoes::Item->new({ number => -1, text => $why })); undef } // $@;
        die "the exception of somebody else: $refused\n" if !ref $refused || ($refused->{why} // '') ne $why;
    }
    $client->note("$number") if $number % 5 == 1;
    $wrapped->close();
}
print "$count right\n";
