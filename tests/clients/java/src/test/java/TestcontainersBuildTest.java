import static org.junit.jupiter.api.Assertions.assertEquals;

import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.testcontainers.containers.GenericContainer;
import org.testcontainers.images.builder.ImageFromDockerfile;

class TestcontainersBuildTest {
    @Test
    void anImageOfADockerfile() throws Exception {
        ImageFromDockerfile image = new ImageFromDockerfile("testcontainers-java:1", false)
                .withFileFromPath(".", Path.of(System.getenv("BUILD_CONTEXT")))
                .withBuildArg("WORD", "java");
        try (GenericContainer<?> container =
                new GenericContainer<>(image).withNetworkMode("none").withCommand("sleep", "1000")) {
            container.start();
            assertEquals("word java\n", container.execInContainer("cat", "/word").getStdout());
        }
    }
}
