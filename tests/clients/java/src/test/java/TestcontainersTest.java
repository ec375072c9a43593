import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import org.junit.jupiter.api.Test;
import org.testcontainers.containers.Container;
import org.testcontainers.containers.GenericContainer;
import org.testcontainers.containers.Network;
import org.testcontainers.containers.wait.strategy.Wait;
import org.testcontainers.images.builder.Transferable;

class TestcontainersTest {
    @Test
    void aServerAndItsClient() throws Exception {
        try (Network network = Network.newNetwork();
                GenericContainer<?> server = new GenericContainer<>("busybox")
                        .withNetwork(network)
                        .withNetworkAliases("web")
                        .withCopyToContainer(Transferable.of("hello from java"), "/www/index.html")
                        .withCommand("sh", "-c", "echo ready; exec httpd -f -p 8080 -h /www")
                        .withExposedPorts(8080)
                        .waitingFor(Wait.forHttp("/index.html"))) {
            server.start();
            URI uri = URI.create("http://" + server.getHost() + ":" + server.getMappedPort(8080) + "/index.html");
            HttpResponse<String> answer =
                    HttpClient.newHttpClient().send(HttpRequest.newBuilder(uri).build(), HttpResponse.BodyHandlers.ofString());
            assertEquals("hello from java", answer.body());
            assertTrue(server.getLogs().contains("ready"));
            Container.ExecResult result = server.execInContainer("sh", "-c", "echo out; echo err >&2; exit 4");
            assertEquals(4, result.getExitCode());
            assertEquals("out\n", result.getStdout());
            assertEquals("err\n", result.getStderr());
            try (GenericContainer<?> client = new GenericContainer<>("busybox")
                    .withNetwork(network)
                    .withCommand("sh", "-c", "wget -q -O - http://web:8080/index.html; echo; sleep 1000")
                    .waitingFor(Wait.forLogMessage(".*hello from java.*", 1))) {
                client.start();
            }
        }
    }
}
