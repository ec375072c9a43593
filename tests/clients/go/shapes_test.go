package clients

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/api/types/volume"
)

var daemon = http.Client{Transport: &http.Transport{
	DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return net.Dial("unix", strings.TrimPrefix(os.Getenv("DOCKER_HOST"), "unix://"))
	},
}}

// ask returns the body of an answer whose status is a success.
func ask(t *testing.T, method, path, body string) []byte {
	t.Helper()
	request, err := http.NewRequest(method, "http://docker"+path, bytes.NewBufferString(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	answer, err := daemon.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode >= 400 {
		t.Fatal(method, path, answer.Status, string(data), err)
	}
	return data
}

// absent finds the members that Go always writes and that the answer does not have.
func absent(kind reflect.Type, value any, path string) []string {
	for kind.Kind() == reflect.Pointer {
		kind = kind.Elem()
	}
	if value == nil || reflect.PointerTo(kind).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil
	}
	var found []string
	switch kind.Kind() {
	case reflect.Struct:
		members, ok := value.(map[string]any)
		if !ok {
			return []string{path + " is not an object"}
		}
		for i := range kind.NumField() {
			field := kind.Field(i)
			name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
			switch {
			case name == "-" || !field.IsExported() && !field.Anonymous:
				continue
			case field.Anonymous && name == "":
				found = append(found, absent(field.Type, value, path)...)
				continue
			case name == "":
				name = field.Name
			}
			if member, ok := members[name]; ok {
				found = append(found, absent(field.Type, member, path+"."+name)...)
			} else if !strings.Contains(options, "omitempty") {
				found = append(found, path+"."+name)
			}
		}
	case reflect.Slice:
		if items, ok := value.([]any); ok {
			for _, item := range items {
				found = append(found, absent(kind.Elem(), item, path+"[]")...)
			}
		}
	case reflect.Map:
		if items, ok := value.(map[string]any); ok {
			for _, item := range items {
				found = append(found, absent(kind.Elem(), item, path+"{}")...)
			}
		}
	}
	return found
}

func fits[T any](t *testing.T, method, path, body string) T {
	t.Helper()
	data := ask(t, method, path, body)
	var typed T
	if err := json.Unmarshal(data, &typed); err != nil {
		t.Fatal(path, err)
	}
	var value any
	if err := json.Unmarshal(data, &value); err != nil {
		t.Fatal(path, err)
	}
	if found := absent(reflect.TypeFor[T](), value, path); len(found) > 0 {
		t.Error("absent: ", found)
	}
	return typed
}

// Every answer decodes into Docker's own types, and has the members that dockerd always writes.
func TestAnswersFitTheTypes(t *testing.T) {
	made := fits[network.CreateResponse](t, "POST", "/networks/create", `{"Name":"shapes"}`)
	defer ask(t, "DELETE", "/networks/"+made.ID, "")
	fits[volume.Volume](t, "POST", "/volumes/create", `{"Name":"shapes"}`)
	defer ask(t, "DELETE", "/volumes/shapes", "")
	one := fits[container.CreateResponse](t, "POST", "/containers/create", `{"Image":"busybox","Cmd":["sleep","1000"],
		"ExposedPorts":{"80/tcp":{}},"Healthcheck":{"Test":["CMD","true"]},
		"HostConfig":{"Binds":["shapes:/v"],"NetworkMode":"shapes","PortBindings":{"80/tcp":[{}]},"RestartPolicy":{"Name":"always"},
		"Ulimits":[{"Name":"nofile","Soft":9000,"Hard":9000}],"Devices":[{"PathOnHost":"/dev/null","PathInContainer":"/dev/other"}]}}`).ID
	defer ask(t, "DELETE", "/containers/"+one+"?force=1", "")
	created := fits[container.InspectResponse](t, "GET", "/containers/"+one+"/json", "")
	if created.GraphDriver.Data == nil {
		t.Error("GraphDriver.Data is null")
	}
	fits[container.StatsResponse](t, "GET", "/containers/"+one+"/stats?stream=0&one-shot=1", "")
	ask(t, "POST", "/containers/"+one+"/start", "")
	fits[container.InspectResponse](t, "GET", "/containers/"+one+"/json?size=1", "")
	fits[[]container.Summary](t, "GET", "/containers/json?all=1&size=1", "")
	fits[container.TopResponse](t, "GET", "/containers/"+one+"/top", "")
	stats := fits[container.StatsResponse](t, "GET", "/containers/"+one+"/stats?stream=0", "")
	if stats.BlkioStats.IoServiceBytesRecursive == nil {
		t.Error("io_service_bytes_recursive is null")
	}
	fits[[]container.FilesystemChange](t, "GET", "/containers/"+one+"/changes", "")
	fits[container.UpdateResponse](t, "POST", "/containers/"+one+"/update", `{"RestartPolicy":{"Name":"no"}}`)
	exec := fits[container.ExecCreateResponse](t, "POST", "/containers/"+one+"/exec", `{"Cmd":["true"]}`).ID
	fits[container.ExecInspect](t, "GET", "/exec/"+exec+"/json", "")
	fits[[]image.Summary](t, "GET", "/images/json", "")
	fits[image.InspectResponse](t, "GET", "/images/busybox/json", "")
	fits[[]image.HistoryResponseItem](t, "GET", "/images/busybox/history", "")
	for _, known := range fits[[]network.Summary](t, "GET", "/networks", "") {
		if fits[network.Inspect](t, "GET", "/networks/"+known.ID, "").IPAM.Config == nil {
			t.Error("IPAM.Config is null on ", known.Name)
		}
	}
	fits[volume.ListResponse](t, "GET", "/volumes", "")
	fits[system.Info](t, "GET", "/info", "")
	fits[types.Version](t, "GET", "/version", "")
	fits[types.DiskUsage](t, "GET", "/system/df", "")
	fits[container.PruneReport](t, "POST", "/containers/prune", "")
}
