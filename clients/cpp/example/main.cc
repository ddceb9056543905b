#include <jobgateway/client.h>

#include <iostream>

int main() {
  jobgateway::Client client("127.0.0.1:50051", {"demo-token"});
  auto request = jobgateway::NewRequest("1", 7, "succeed");
  request.set_params_json(R"({"duration": 1, "steps": 2})");
  jobgateway::CallOptions options;
  options.on_progress = [](const jobgateway::v1::Job& job) {
    if (!job.has_progress()) return;
    std::cout << job.progress().percentage() << "% " << job.progress().message()
              << "\n";
  };
  const auto end = client.Run(request, options).Finish();
  std::cout << JobStatus_Name(end.job.status()) << " " << end.result << "\n";
}
