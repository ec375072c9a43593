package clients

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/exec"
	"github.com/testcontainers/testcontainers-go/network"
	"github.com/testcontainers/testcontainers-go/wait"
)

func text(t *testing.T, reader io.Reader, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestAServerAndItsClient(t *testing.T) {
	ctx := context.Background()
	front, err := network.New(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer front.Remove(ctx)
	server, err := testcontainers.GenericContainer(ctx, testcontainers.GenericContainerRequest{
		Started: true,
		ContainerRequest: testcontainers.ContainerRequest{
			Image:          "busybox",
			Cmd:            []string{"sh", "-c", "echo ready; exec httpd -f -p 8080 -h /www"},
			Networks:       []string{front.Name},
			NetworkAliases: map[string][]string{front.Name: {"web"}},
			ExposedPorts:   []string{"8080/tcp"},
			Files: []testcontainers.ContainerFile{
				{Reader: strings.NewReader("hello from go"), ContainerFilePath: "/www/index.html", FileMode: 0o644},
			},
			WaitingFor: wait.ForAll(wait.ForListeningPort("8080/tcp"), wait.ForLog("ready")),
		},
	})
	testcontainers.CleanupContainer(t, server)
	if err != nil {
		t.Fatal(err)
	}
	// The container is on its network alone.
	names, err := server.Networks(ctx)
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	url, err := server.Endpoint(ctx, "http")
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.Get(url + "/index.html")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if body := text(t, answer.Body, nil); body != "hello from go" {
		t.Fatal(body)
	}
	code, out, err := server.Exec(ctx, []string{"sh", "-c", "echo out; exit 4"}, exec.Multiplexed())
	if said := text(t, out, err); code != 4 || said != "out\n" {
		t.Fatal(code, said)
	}
	client, err := testcontainers.GenericContainer(ctx, testcontainers.GenericContainerRequest{
		Started: true,
		ContainerRequest: testcontainers.ContainerRequest{
			Image:      "busybox",
			Cmd:        []string{"sh", "-c", "wget -q -O - http://web:8080/index.html; echo; sleep 1000"},
			Networks:   []string{front.Name},
			WaitingFor: wait.ForLog("hello from go"),
		},
	})
	testcontainers.CleanupContainer(t, client)
	if err != nil {
		t.Fatal(err)
	}
}
