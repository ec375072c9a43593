// dockerode sends the context of a build as a tar, and reads lines of JSON.
import assert from "node:assert";
import { test } from "node:test";
import Docker from "dockerode";

const docker = new Docker();

async function build(src, options) {
  const stream = await docker.buildImage({ context: process.env.BUILD_CONTEXT, src }, options);
  return new Promise((done, fail) => docker.modem.followProgress(stream, (error, lines) => (error ? fail(error) : done(lines))));
}

test("buildImage", { timeout: 120000 }, async () => {
  const lines = await build(["Dockerfile", "file"], { t: "dockerode:1", buildargs: { WORD: "given" } });
  const text = lines.map((line) => line.stream ?? "").join("");
  assert.match(text, /Step 1\/4 : FROM busybox/);
  assert.match(text, /word given/);
  const id = lines.find((line) => line.aux)?.aux.ID;
  assert.equal((await docker.getImage("dockerode:1").inspect()).Id, id);
  const failed = await build(["Dockerfile"], { t: "dockerode:2" });
  assert.match(failed.at(-1).error, /file/);
});
