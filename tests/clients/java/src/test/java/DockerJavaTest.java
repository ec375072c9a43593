import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;

import com.github.dockerjava.api.DockerClient;
import com.github.dockerjava.api.async.ResultCallback;
import com.github.dockerjava.api.model.Frame;
import com.github.dockerjava.api.model.HostConfig;
import com.github.dockerjava.api.model.Network;
import com.github.dockerjava.core.DefaultDockerClientConfig;
import com.github.dockerjava.core.DockerClientImpl;
import com.github.dockerjava.core.InvocationBuilder;
import com.github.dockerjava.httpclient5.ApacheDockerHttpClient;
import java.io.ByteArrayInputStream;
import org.junit.jupiter.api.Test;

/** docker-java on its usual transport: its exec requests carry members that Docker ignores. */
class DockerJavaTest {
    private final DefaultDockerClientConfig config = DefaultDockerClientConfig.createDefaultConfigBuilder().build();
    private final DockerClient docker = DockerClientImpl.getInstance(
            config, new ApacheDockerHttpClient.Builder().dockerHost(config.getDockerHost()).build());

    private static class Heard extends ResultCallback.Adapter<Frame> {
        final StringBuilder text = new StringBuilder();

        @Override
        public void onNext(Frame frame) {
            text.append(new String(frame.getPayload()));
        }
    }

    @Test
    void aContainerFromCreateToRemove() throws Exception {
        assertNotNull(docker.infoCmd().exec().getServerVersion());
        assertNotNull(docker.versionCmd().exec().getVersion());
        docker.createNetworkCmd().withName("java").exec();
        for (Network network : docker.listNetworksCmd().exec()) {
            assertNotNull(docker.inspectNetworkCmd().withNetworkId(network.getId()).exec().getIpam().getConfig());
        }
        String id = docker.createContainerCmd("busybox")
                .withCmd("sh", "-c", "read line; echo got $line; sleep 1000")
                .withStdinOpen(true)
                .withHostConfig(HostConfig.newHostConfig().withNetworkMode("java"))
                .exec()
                .getId();
        Heard attached = docker.attachContainerCmd(id)
                .withStdIn(new ByteArrayInputStream("words\n".getBytes()))
                .withStdOut(true)
                .withFollowStream(true)
                .exec(new Heard());
        attached.awaitStarted();
        docker.startContainerCmd(id).exec();
        for (int i = 0; i < 300 && attached.text.length() == 0; i++) {
            Thread.sleep(100);
        }
        assertEquals("got words\n", attached.text.toString());
        attached.close();

        // docker-java does not close its side at the end of the input.
        String exec = docker.execCreateCmd(id).withCmd("sh", "-c", "read line; echo $line").withAttachStdin(true).withAttachStdout(true).exec().getId();
        Heard heard = docker.execStartCmd(exec)
                .withStdIn(new ByteArrayInputStream("typed\n".getBytes()))
                .exec(new Heard());
        heard.awaitCompletion();
        assertEquals("typed\n", heard.text.toString());
        assertEquals(0L, docker.inspectExecCmd(exec).exec().getExitCodeLong());

        assertNotNull(docker.inspectContainerCmd(id).exec().getNetworkSettings().getNetworks().get("java"));
        assertEquals(1, docker.listContainersCmd().exec().stream().filter(one -> one.getId().equals(id)).count());
        assertNotNull(docker.inspectImageCmd("busybox").exec().getId());
        assertNotNull(docker.topContainerCmd(id).exec().getProcesses());
        InvocationBuilder.AsyncResultCallback<com.github.dockerjava.api.model.Statistics> stats =
                new InvocationBuilder.AsyncResultCallback<>();
        docker.statsCmd(id).withNoStream(true).exec(stats);
        assertNotNull(stats.awaitResult().getBlkioStats().getIoServiceBytesRecursive());
        docker.updateContainerCmd(id).withMemory(256L << 20).withMemorySwap(256L << 20).exec();
        docker.removeContainerCmd(id).withForce(true).exec();
        docker.removeNetworkCmd("java").exec();
    }
}
