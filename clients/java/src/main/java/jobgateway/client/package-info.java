/**
 * A client of the Job Gateway. It sends jobs, watches them over broken connections until they end,
 * and verifies their results.
 *
 * <pre>{@code
 * try (var client = Client.create("127.0.0.1:50051", "demo-token")) {
 *   var request =
 *       SendJobRequest.newBuilder()
 *           .setWorkspaceId("1")
 *           .setEntityId(7)
 *           .setMethodName("succeed")
 *           .setRequestId(UUID.randomUUID().toString())
 *           .build();
 *   var end = client.run(request).finish();
 *   System.out.println(end.job().getStatus() + " " + end.result().toStringUtf8());
 * }
 * }</pre>
 *
 * The messages of the contract are in {@code jobgateway.v1}.
 */
package jobgateway.client;
