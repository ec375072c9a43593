// Makes a container, a network and a volume of one session of testcontainers, says so, and waits until it is killed.
import Docker from "dockerode";
import { GenericContainer, Network } from "testcontainers";

const SESSION = "org.testcontainers.session-id";
const docker = new Docker();
const network = await new Network().start();
const container = await new GenericContainer("busybox").withNetwork(network).withCommand(["sleep", "1000"]).start();
const labels = (await docker.getContainer(container.getId()).inspect()).Config.Labels;
await docker.createVolume({ Name: "left-by-node", Labels: { [SESSION]: labels[SESSION] } });
console.log("ready");
setInterval(() => {}, 1000);
