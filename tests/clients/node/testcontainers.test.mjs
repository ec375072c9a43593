import assert from "node:assert";
import { test } from "node:test";
import { GenericContainer, Network, Wait } from "testcontainers";

test("a server and its client", { timeout: 180000 }, async () => {
  const network = await new Network().start();
  const server = await new GenericContainer("busybox")
    .withNetwork(network)
    .withNetworkAliases("web")
    .withCopyContentToContainer([{ content: "hello from node", target: "/www/index.html" }])
    .withCommand(["sh", "-c", "echo ready; exec httpd -f -p 8080 -h /www"])
    .withExposedPorts(8080)
    .withWaitStrategy(Wait.forAll([Wait.forListeningPorts(), Wait.forLogMessage("ready")]))
    .start();
  try {
    const answer = await fetch(`http://${server.getHost()}:${server.getMappedPort(8080)}/index.html`);
    assert.equal(await answer.text(), "hello from node");
    const result = await server.exec(["sh", "-c", "echo out; exit 4"]);
    assert.equal(result.exitCode, 4);
    assert.equal(result.stdout, "out\n");
    const client = await new GenericContainer("busybox")
      .withNetwork(network)
      .withCommand(["sh", "-c", "wget -q -O - http://web:8080/index.html; echo; sleep 1000"])
      .withWaitStrategy(Wait.forLogMessage("hello from node"))
      .start();
    await client.stop();
  } finally {
    await server.stop();
    await network.stop();
  }
});
