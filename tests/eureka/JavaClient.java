import com.netflix.appinfo.ApplicationInfoManager;
import com.netflix.appinfo.InstanceInfo;
import com.netflix.appinfo.MyDataCenterInstanceConfig;
import com.netflix.appinfo.providers.EurekaConfigBasedInstanceInfoProvider;
import com.netflix.config.ConfigurationManager;
import com.netflix.discovery.DefaultEurekaClientConfig;
import com.netflix.discovery.DiscoveryClient;
import com.netflix.discovery.shared.Application;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.util.Map;
import java.util.TreeSet;
import java.util.stream.Collectors;

/**
 * Netflix' own client as a service would use it, told what to do line by line.
 *
 * <p>Arguments: the server's URL, its own application, instance id and port. Reads commands from
 * standard input and answers each with a line of JSON.
 */
public final class JavaClient {
    public static void main(String[] args) throws Exception {
        PrintStream out = System.out;
        System.setOut(System.err); // What its libraries print is no answer.
        Map<String, Object> settings = Map.ofEntries(
            Map.entry("eureka.serviceUrl.default", args[0]),
            Map.entry("eureka.name", args[1]),
            Map.entry("eureka.port", args[3]),
            Map.entry("eureka.port.enabled", "true"),
            Map.entry("eureka.vipAddress", args[1]),
            Map.entry("eureka.validateInstanceId", "false"),
            Map.entry("eureka.lease.renewalInterval", "1"),
            Map.entry("eureka.lease.duration", "3"),
            Map.entry("eureka.client.refresh.interval", "1"),
            Map.entry("eureka.appinfo.initial.replicate.time", "0"),
            Map.entry("eureka.appinfo.replicate.interval", "1"),
            Map.entry("eureka.shouldUnregisterOnShutdown", "true"));
        settings.forEach((name, value) ->
            ConfigurationManager.getConfigInstance().setProperty(name, value));
        MyDataCenterInstanceConfig config = new MyDataCenterInstanceConfig() {
            @Override
            public String getInstanceId() {
                return args[2];
            }

            @Override
            public String getHostName(boolean refresh) {
                return "127.0.0.1";
            }

            @Override
            public String getIpAddress() {
                return "127.0.0.1";
            }

            @Override
            public int getLeaseRenewalIntervalInSeconds() {
                return 1;
            }

            @Override
            public int getLeaseExpirationDurationInSeconds() {
                return 3;
            }
        };
        InstanceInfo info = new EurekaConfigBasedInstanceInfoProvider(config).get();
        ApplicationInfoManager manager = new ApplicationInfoManager(config, info);
        DiscoveryClient client = new DiscoveryClient(manager, new DefaultEurekaClientConfig());
        manager.setInstanceStatus(InstanceInfo.InstanceStatus.UP);
        out.println("\"started\"");
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] words = line.split(" ");
            switch (words[0]) {
                case "see" -> {
                    Application app = client.getApplication(words[1]);
                    TreeSet<String> ids = new TreeSet<>();
                    if (app != null) {
                        app.getInstances().stream()
                            .filter(one -> one.getStatus() == InstanceInfo.InstanceStatus.UP)
                            .forEach(one -> ids.add(one.getInstanceId()));
                    }
                    out.println(ids.stream()
                        .map(id -> "\"" + id + "\"")
                        .collect(Collectors.joining(",", "[", "]")));
                }
                case "out" -> {
                    manager.setInstanceStatus(InstanceInfo.InstanceStatus.OUT_OF_SERVICE);
                    out.println("true");
                }
                case "in" -> {
                    manager.setInstanceStatus(InstanceInfo.InstanceStatus.UP);
                    out.println("true");
                }
                case "stop" -> {
                    client.shutdown();
                    out.println("true");
                    System.exit(0);
                }
                default -> out.println("false");
            }
        }
    }

    private JavaClient() {}
}
