// dockerode sends its options as a JSON body with each POST, attach and exec-start included.
import assert from "node:assert";
import { PassThrough } from "node:stream";
import { test } from "node:test";
import Docker from "dockerode";

const docker = new Docker();

function collected(stream) {
  const out = new PassThrough();
  const text = [];
  out.on("data", (data) => text.push(data));
  docker.modem.demuxStream(stream, out, out);
  return () => Buffer.concat(text).toString();
}

async function until(condition) {
  for (let i = 0; i < 600 && !condition(); i++) await new Promise((done) => setTimeout(done, 100));
  assert.ok(condition());
}

for (const hijack of [true, false]) {
  test(`attach and exec with stdin, hijack ${hijack}`, { timeout: 120000 }, async () => {
    const container = await docker.createContainer({
      Image: "busybox",
      Cmd: ["sh", "-c", "read line; echo got $line; sleep 1000"],
      OpenStdin: true,
    });
    try {
      const stream = await container.attach({ stream: true, stdin: true, stdout: true, stderr: true, hijack });
      const heard = collected(stream);
      await container.start();
      stream.write("words\n");
      await until(() => heard().length > 0);
      assert.equal(heard(), "got words\n");

      const exec = await container.exec({ Cmd: ["sh", "-c", "read line; echo $line"], AttachStdin: true, AttachStdout: true });
      const typed = await exec.start({ hijack, stdin: true });
      const answer = collected(typed);
      typed.write("typed\n");
      await until(() => answer().length > 0);
      assert.equal(answer(), "typed\n");
      assert.equal((await container.logs({ stdout: true })).includes("got words"), true);
      assert.ok((await container.stats({ stream: false })).memory_stats.usage > 0);
      assert.equal((await container.inspect()).State.Running, true);
    } finally {
      await container.remove({ force: true });
    }
  });
}

test("run", { timeout: 120000 }, async () => {
  const out = new PassThrough();
  const text = [];
  out.on("data", (data) => text.push(data));
  const [result, container] = await docker.run("busybox", ["sh", "-c", "echo hello; exit 5"], out, { Tty: false });
  assert.equal(result.StatusCode, 5);
  assert.ok(Buffer.concat(text).toString().includes("hello"));
  await container.remove();
});

test("a network alone", { timeout: 120000 }, async () => {
  const network = await docker.createNetwork({ Name: "node-inner", Internal: true });
  const container = await docker.createContainer({
    Image: "busybox",
    Cmd: ["true"],
    NetworkingConfig: { EndpointsConfig: { "node-inner": {} } },
  });
  try {
    assert.deepEqual(Object.keys((await container.inspect()).NetworkSettings.Networks), ["node-inner"]);
  } finally {
    await container.remove();
    await network.remove();
  }
});
