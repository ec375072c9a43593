import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;

/** A store of lines behind HTTP, which refuses to start below the limits that Elasticsearch's bootstrap checks want. */
public class Store {
    public static void main(String[] arguments) throws Exception {
        List<String> problems = new ArrayList<>();
        for (String line : Files.readAllLines(Path.of("/proc/self/limits"))) {
            check(line, "Max open files", 65535, problems);
            check(line, "Max processes", 4096, problems);
            check(line, "Max address space", Long.MAX_VALUE, problems);
            check(line, "Max file size", Long.MAX_VALUE, problems);
        }
        // As Elasticsearch, by one read(2): a file of /proc/sys has no second part, and Files.readString begins with one byte.
        long maps = Long.parseLong(Files.newBufferedReader(Path.of("/proc/sys/vm/max_map_count")).readLine());
        if (maps < 262144) {
            problems.add("vm.max_map_count is " + maps);
        }
        if (Runtime.getRuntime().maxMemory() < (256L << 20)) {
            problems.add("the heap is " + Runtime.getRuntime().maxMemory());
        }
        if (!problems.isEmpty()) {
            System.err.println("bootstrap checks failed: " + problems);
            System.exit(78);
        }
        Path log = Path.of("/data/log");
        HttpServer server = HttpServer.create(new InetSocketAddress(9200), 0);
        server.createContext("/", exchange -> {
            if (exchange.getRequestMethod().equals("POST")) {
                byte[] line = exchange.getRequestBody().readAllBytes();
                Files.write(log, line, StandardOpenOption.CREATE, StandardOpenOption.APPEND, StandardOpenOption.DSYNC);
            }
            byte[] all = Files.exists(log) ? Files.readAllBytes(log) : new byte[0];
            exchange.sendResponseHeaders(200, all.length == 0 ? -1 : all.length);
            exchange.getResponseBody().write(all);
            exchange.close();
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> server.stop(0)));
        server.start();
        System.out.println("started with " + Runtime.getRuntime().availableProcessors() + " CPUs");
    }

    private static void check(String line, String name, long least, List<String> problems) {
        if (line.startsWith(name)) {
            String soft = line.substring(26, 47).trim();
            if (!soft.equals("unlimited") && Long.parseLong(soft) < least) {
                problems.add(name + " is " + soft);
            }
        }
    }
}
