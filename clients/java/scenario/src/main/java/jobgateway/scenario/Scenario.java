package jobgateway.scenario;

import com.google.gson.JsonObject;
import com.google.gson.annotations.SerializedName;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Struct;
import com.google.protobuf.util.JsonFormat;
import java.util.List;
import jobgateway.v1.SendJobRequest;

/** The steps of a scenario file (clients/README.md). */
record Scenario(List<Step> steps) {

  record Step(
      @SerializedName("do") String action,
      String uid,
      List<String> uids,
      Integer count,
      Request request,
      Integer timeoutSeconds,
      Integer heartbeatSeconds,
      boolean chunks,
      Integer pauseAfter,
      int pauseSeconds) {}

  record Request(
      String workspaceId, Long entityId, String methodName, String requestId, JsonObject params) {

    SendJobRequest toMessage() throws InvalidProtocolBufferException {
      var message = SendJobRequest.newBuilder();
      if (workspaceId != null) {
        message.setWorkspaceId(workspaceId);
      }
      if (entityId != null) {
        message.setEntityId(entityId);
      }
      if (methodName != null) {
        message.setMethodName(methodName);
      }
      if (requestId != null) {
        message.setRequestId(requestId);
      }
      if (params != null) {
        var struct = Struct.newBuilder();
        JsonFormat.parser().merge(params.toString(), struct);
        message.setParams(struct);
      }
      return message.build();
    }
  }
}
