import assert from "node:assert";
import { test } from "node:test";
import { GenericContainer } from "testcontainers";

test("an image of a Dockerfile", { timeout: 400000 }, async () => {
  const image = await GenericContainer.fromDockerfile(process.env.BUILD_CONTEXT)
    .withBuildArgs({ WORD: "node" })
    .build("testcontainers-node:1", { deleteOnExit: false });
  const container = await image.withCommand(["sleep", "1000"]).withNetworkMode("none").start();
  try {
    const result = await container.exec(["cat", "/word"]);
    assert.equal(result.output, "word node\n");
  } finally {
    await container.stop();
  }
});
