import com.google.protobuf.ByteString;
import java.util.UUID;
import jobgateway.client.Client;
import jobgateway.client.Options;
import jobgateway.v1.Job;
import jobgateway.v1.SendJobRequest;

public class Send {
  public static void main(String[] args) throws InterruptedException {
    var request = SendJobRequest.newBuilder().setWorkspaceId("1").setEntityId(7);
    request.setRequestId(UUID.randomUUID().toString()).setMethodName("succeed");
    request.setParamsJson(ByteString.copyFromUtf8("{\"duration\": 1, \"steps\": 2}"));
    try (var client = Client.create("127.0.0.1:50051", "demo-token")) {
      var end = client.run(request.build(), Options.defaults().onProgress(Send::print)).finish();
      System.out.println(end.job().getStatus() + " " + end.result().toStringUtf8());
    }
  }

  private static void print(Job job) {
    if (job.hasProgress()) {
      System.out.println(job.getProgress().getPercentage() + "% " + job.getProgress().getMessage());
    }
  }
}
