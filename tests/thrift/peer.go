// A Go client and server of echo.thrift.
//
// Arguments: client PORT COUNT TRANSPORT ENCODING: one connection after the other, every value compared; the library
// compares the seqids. Or server TRANSPORT ENCODING: says its port, and for each line it reads how many connections it
// accepted and how many notes it got.
package main

import (
	"bufio"
	"context"
	"echo"
	"fmt"
	"math/rand"
	"net"
	"os"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/apache/thrift/lib/go/thrift"
)

var transports = map[string]thrift.TTransportFactory{
	"framed":   thrift.NewTFramedTransportFactoryConf(thrift.NewTTransportFactory(), nil),
	"buffered": thrift.NewTBufferedTransportFactory(4096),
	"header":   thrift.NewTTransportFactory(),
}

var protocols = map[string]thrift.TProtocolFactory{
	"binary":  thrift.NewTBinaryProtocolFactoryConf(nil),
	"compact": thrift.NewTCompactProtocolFactoryConf(nil),
}

func protocol(transport, encoding string) thrift.TProtocolFactory {
	if transport != "header" {
		return protocols[encoding]
	}
	id := thrift.THeaderProtocolBinary
	if encoding == "compact" {
		id = thrift.THeaderProtocolCompact
	}
	return thrift.NewTHeaderProtocolFactoryConf(&thrift.TConfiguration{THeaderProtocolID: &id})
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func word() string {
	return strings.Repeat(strconv.Itoa(rand.Int()), rand.Intn(4))
}

func item() *echo.Item {
	item := echo.NewItem()
	item.Number, item.Text, item.Flag, item.Ratio = rand.Int31(), word(), rand.Intn(2) == 1, rand.Float64()
	if rand.Intn(20) == 0 {
		item.Text = strings.Repeat("x", 20000)
	}
	item.Numbers, item.Counts, item.Words = []int64{rand.Int63(), -rand.Int63()}, map[string]int32{word(): rand.Int31()}, [][]string{}
	for count := rand.Intn(16); count > 0; count-- {
		item.Words = append(item.Words, []string{word(), word()})
	}
	return item
}

func ask(number int, port, transport, encoding string) {
	ctx := context.Background()
	socket := thrift.NewTSocketConf("127.0.0.1:"+port, &thrift.TConfiguration{SocketTimeout: 30 * time.Second})
	wrapped, err := transports[transport].GetTransport(socket)
	check(err)
	client := echo.NewEchoClientFactory(wrapped, protocol(transport, encoding))
	check(wrapped.Open())
	sent := item()
	got, err := client.Echo(ctx, sent)
	check(err)
	if !reflect.DeepEqual(sent, got) {
		check(fmt.Errorf("a reply of somebody else"))
	}
	if number%5 == 0 {
		sent.Number = -1
		_, err := client.Echo(ctx, sent)
		refused, is := err.(*echo.Refused)
		if !is || refused.Why != sent.Text {
			check(fmt.Errorf("the exception of somebody else: %v", err))
		}
	}
	if number%5 == 1 {
		check(client.Note(ctx, "note"))
	}
	check(wrapped.Close())
}

type handler struct{ notes int64 }

func (h *handler) Echo(_ context.Context, item *echo.Item) (*echo.Item, error) {
	if item.Number < 0 {
		return nil, &echo.Refused{Why: item.Text}
	}
	return item, nil
}

func (h *handler) Note(context.Context, string) error {
	atomic.AddInt64(&h.notes, 1)
	return nil
}

// A server socket that counts.
type counting struct {
	*thrift.TServerSocket
	accepted int64
}

func (c *counting) Accept() (thrift.TTransport, error) {
	client, err := c.TServerSocket.Accept()
	if err == nil {
		atomic.AddInt64(&c.accepted, 1)
	}
	return client, err
}

func serve(transport, encoding string) {
	socket, err := thrift.NewTServerSocket("127.0.0.1:0")
	check(err)
	check(socket.Listen())
	fmt.Println(socket.Addr().(*net.TCPAddr).Port)
	counted, handler := &counting{TServerSocket: socket}, &handler{}
	processor := echo.NewEchoProcessor(handler)
	server := thrift.NewTSimpleServer4(processor, counted, transports[transport], protocol(transport, encoding))
	go func() { check(server.Serve()) }()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(atomic.LoadInt64(&counted.accepted), atomic.LoadInt64(&handler.notes))
	}
}

func main() {
	rand.Seed(time.Now().UnixNano())
	if os.Args[1] == "server" {
		serve(os.Args[2], os.Args[3])
		return
	}
	count, err := strconv.Atoi(os.Args[3])
	check(err)
	for number := 0; number < count; number++ {
		ask(number, os.Args[2], os.Args[4], os.Args[5])
	}
	fmt.Println(count, "right")
}
