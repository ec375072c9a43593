package clients

import (
	"context"
	"os"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
)

func TestAnImageOfADockerfile(t *testing.T) {
	word := "go"
	made, err := testcontainers.GenericContainer(context.Background(), testcontainers.GenericContainerRequest{
		Started: true,
		ContainerRequest: testcontainers.ContainerRequest{
			FromDockerfile: testcontainers.FromDockerfile{
				Context:   os.Getenv("BUILD_CONTEXT"),
				BuildArgs: map[string]*string{"WORD": &word},
				Repo:      "testcontainers-go",
				Tag:       "1",
				KeepImage: true,
			},
			Cmd:                []string{"sh", "-c", "cat /word; sleep 1000"},
			HostConfigModifier: func(config *container.HostConfig) { config.NetworkMode = "none" },
			WaitingFor:         wait.ForLog("word go"),
		},
	})
	testcontainers.CleanupContainer(t, made)
	if err != nil {
		t.Fatal(err)
	}
}
