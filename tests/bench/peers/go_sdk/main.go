// Command peer is the official Go SDK as a peer of the benchmarks: a stateless Streamable HTTP handler with JSON replies.
//
// Called by tests/bench/servers.py, as `peer PORT [default|propagate] [linger]`, with GOMAXPROCS=1. `propagate` switches on
// the SDK's opt-in that ties a handler to its request, which only the disconnect benchmark asks for.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

type echoArguments struct {
	Text string `json:"text"`
}

type lingerArguments struct {
	Port    int     `json:"port"`
	Seconds float64 `json:"seconds"`
}

func text(value string) *mcp.CallToolResult {
	return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: value}}}
}

func echo(_ context.Context, _ *mcp.CallToolRequest, in echoArguments) (*mcp.CallToolResult, any, error) {
	return text(in.Text), nil, nil
}

func mark(port int, word string) {
	connection, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		log.Print(err)
		return
	}
	defer connection.Close()
	fmt.Fprint(connection, word)
}

func linger(ctx context.Context, _ *mcp.CallToolRequest, in lingerArguments) (*mcp.CallToolResult, any, error) {
	mark(in.Port, "began")
	defer mark(in.Port, "ended")
	select {
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	case <-time.After(time.Duration(in.Seconds * float64(time.Second))):
		return text("done"), nil, nil
	}
}

func main() {
	server := mcp.NewServer(&mcp.Implementation{Name: "peer", Version: "1"}, nil)
	mcp.AddTool(server, &mcp.Tool{Name: "echo", Description: "Return the text unchanged."}, echo)
	if len(os.Args) > 3 {
		mcp.AddTool(server, &mcp.Tool{Name: "linger", Description: "Wait."}, linger)
	}
	options := &mcp.StreamableHTTPOptions{
		Stateless:                    true,
		JSONResponse:                 true,
		PropagateRequestCancellation: len(os.Args) > 2 && os.Args[2] == "propagate",
	}
	handler := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, options)
	http.Handle("/mcp", handler)
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
