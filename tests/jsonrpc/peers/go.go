// A server and a client of Go's net/rpc/jsonrpc.
//
// `server` prints its port, then on each line of standard input the number of connections it has accepted; ends with
// standard input. `client PORT COUNT SECONDS` makes so many connections, eight at a time, and checks every value; an
// answer must come within so many seconds.
package main

import (
	"bufio"
	"fmt"
	"log"
	"math/rand"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

type Args struct {
	A, B int
	Text string
}

type Reply struct {
	Product int
	Text    string
}

type Arith struct{}

func (Arith) Multiply(args *Args, reply *Reply) error {
	time.Sleep(time.Duration(rand.Intn(3)) * time.Millisecond)
	*reply = Reply{args.A * args.B, "<" + args.Text + ">"}
	return nil
}

func (Arith) Fail(args *Args, _ *Reply) error {
	return fmt.Errorf("no %s", args.Text)
}

func serve() {
	if err := rpc.Register(Arith{}); err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	var accepted atomic.Int64
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				log.Fatal(err)
			}
			accepted.Add(1)
			go jsonrpc.ServeConn(conn)
		}
	}()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(accepted.Load())
	}
}

func ask(port string, number int, patience time.Duration) error {
	conn, err := net.DialTimeout("tcp", "127.0.0.1:"+port, 10*time.Second)
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	client := jsonrpc.NewClient(conn)
	defer client.Close()
	args := &Args{rand.Intn(1 << 30), rand.Intn(1 << 30), fmt.Sprintf("é\"\\\n\u2028 %d %x", number, rand.Int63())}
	var replies [2]Reply
	first := client.Go("Arith.Multiply", args, &replies[0], nil)
	second := client.Go("Arith.Multiply", &Args{1, args.A, args.Text}, &replies[1], nil)
	for _, call := range []*rpc.Call{<-first.Done, <-second.Done} {
		if call.Error != nil {
			return call.Error
		}
	}
	if replies != [2]Reply{{args.A * args.B, "<" + args.Text + ">"}, {args.A, "<" + args.Text + ">"}} {
		return fmt.Errorf("wrong values: %v for %v", replies, args)
	}
	if err := client.Call("Arith.Fail", args, &replies[0]); err == nil || err.Error() != "no "+args.Text {
		return fmt.Errorf("wrong error: %v for %v", err, args)
	}
	return nil
}

func main() {
	log.SetFlags(0)
	if os.Args[1] == "server" {
		serve()
		return
	}
	var numbers [2]int
	for i := range numbers {
		number, err := strconv.Atoi(os.Args[3+i])
		if err != nil {
			log.Fatal(err)
		}
		numbers[i] = number
	}
	count, patience := numbers[0], time.Duration(numbers[1])*time.Second
	var all sync.WaitGroup
	var next atomic.Int64
	for i := 0; i < 8; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			for number := int(next.Add(1)); number <= count; number = int(next.Add(1)) {
				if err := ask(os.Args[2], number, patience); err != nil {
					log.Fatal(err)
				}
			}
		}()
	}
	all.Wait()
}
