# A Ruby client of echo.thrift: one connection after the other, every value and every seqid compared.
#
# Arguments: LIBRARY PORT COUNT TRANSPORT ENCODING. LIBRARY is plain or accelerated.
require "thrift"
require "echo"

library, port, count, transport, encoding = ARGV

# The library does not look at the seqid of a reply.
module Checked
  def write_message_begin(name, type, _)
    @sent = [0, 1, rand(2**31)].sample
    super(name, type, @sent)
  end

  def read_message_begin
    name, type, seqid = super
    raise "seqid #{seqid} where #{@sent} was sent" if seqid != @sent

    [name, type, seqid]
  end
end

def word
  "abc%x" % rand(2**32) * rand(4)
end

def item
  Echoes::Item.new(
    number: rand(2**31), text: rand(20).zero? ? "x" * 20_000 : word, numbers: [rand(2**62), -rand(2**62)],
    counts: { word => rand(1000) }, flag: rand(2).zero?, ratio: rand, words: Array.new(rand(16)) { [word, word] },
  )
end

protocols = {
  "binary" => library == "accelerated" ? Thrift::BinaryProtocolAccelerated : Thrift::BinaryProtocol,
  "compact" => Thrift::CompactProtocol,
}
count.to_i.times do |number|
  socket = Thrift::Socket.new("127.0.0.1", port.to_i, 30)
  wrapped = transport == "framed" ? Thrift::FramedTransport.new(socket) : Thrift::BufferedTransport.new(socket)
  protocol = protocols.fetch(encoding).new(wrapped)
  protocol.singleton_class.prepend(Checked)
  client = Echoes::Echo::Client.new(protocol)
  wrapped.open
  sent = item
  raise "a reply of somebody else" if client.echo(sent) != sent

  if number % 5 == 0
    why = word
    begin
      client.echo(Echoes::Item.new(number: -1, text: why))
      raise "not refused"
    rescue Echoes::Refused => refused
      raise "the exception of somebody else" if refused.why != why
    end
  end
  client.note(number.to_s) if number % 5 == 1
  wrapped.close
end
puts "#{count} right"
