// A stand-in for Ryuk, the container in which testcontainers leaves the cleaning up: it speaks Ryuk's protocol with its clients, and
// HTTP with the API at /var/run/docker.sock. Each line of a client is a filter, such as label=org.testcontainers.session-id=ID, and is
// answered by ACK. When no client has been connected for RYUK_RECONNECTION_TIMEOUT, it removes all containers, networks and
// volumes that fit a filter, and ends.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

const retries = 10

var api = http.Client{
	Timeout: 10 * time.Second,
	Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", "/var/run/docker.sock")
	}},
}

// The prefix of all paths, with the version that the daemon names.
var prefix string

func call(method, path string, query url.Values, answer any) error {
	request, err := http.NewRequest(method, "http://docker"+prefix+path+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	response, err := api.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %d %s", method, path, response.StatusCode, body)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(body, answer)
}

func negotiate() error {
	response, err := api.Head("http://docker/_ping")
	if err != nil {
		return err
	}
	response.Body.Close()
	prefix = "/v" + response.Header.Get("Api-Version")
	return nil
}

type object struct {
	Id, Name string
	Labels   map[string]string
}

func list(path string, filters url.Values) []object {
	encoded, _ := json.Marshal(filters)
	query := url.Values{"filters": {string(encoded)}, "all": {"1"}}
	var found []object
	var volumes struct{ Volumes []object }
	var err error
	if path == "/volumes" {
		err = call("GET", path, query, &volumes)
		found = volumes.Volumes
	} else {
		err = call("GET", path, query, &found)
	}
	if err != nil {
		log.Fatal(err)
	}
	return found
}

func remove(path string) {
	for range retries {
		err := call("DELETE", path, url.Values{"force": {"1"}, "v": {"1"}}, nil)
		if err == nil || strings.Contains(err.Error(), ": 404 ") {
			return
		}
		log.Print(err)
		time.Sleep(time.Second)
	}
}

func reap(filters url.Values) {
	for _, container := range list("/containers/json", filters) {
		if container.Labels["org.testcontainers.ryuk"] != "true" {
			remove("/containers/" + container.Id)
		}
	}
	for _, network := range list("/networks", filters) {
		remove("/networks/" + network.Id)
	}
	for _, volume := range list("/volumes", filters) {
		remove("/volumes/" + volume.Name)
	}
}

func patience(name, standard string) time.Duration {
	text := os.Getenv(name)
	if text == "" {
		text = standard
	}
	parsed, err := time.ParseDuration(text)
	if err != nil {
		log.Fatal(err)
	}
	return parsed
}

func main() {
	first, again := patience("RYUK_CONNECTION_TIMEOUT", "60s"), patience("RYUK_RECONNECTION_TIMEOUT", "10s")
	if err := negotiate(); err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", ":8080")
	if err != nil {
		log.Fatal(err)
	}
	log.Print("Started!")
	var filters sync.Map
	changes := make(chan int)
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			changes <- 1
			go func() {
				defer func() { connection.Close(); changes <- -1 }()
				for lines := bufio.NewScanner(connection); lines.Scan(); {
					if filter, err := url.ParseQuery(lines.Text()); err == nil && len(filter) > 0 {
						filters.Store(lines.Text(), filter)
						fmt.Fprint(connection, "ACK\n")
					}
				}
			}()
		}
	}()
	clients, timer := 0, time.NewTimer(first)
	for waiting := true; waiting; {
		select {
		case change := <-changes:
			clients += change
			timer.Stop()
			if clients == 0 {
				timer.Reset(again)
			}
		case <-timer.C:
			waiting = false
		}
	}
	filters.Range(func(_, filter any) bool { reap(filter.(url.Values)); return true })
}
