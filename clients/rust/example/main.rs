use std::error::Error;

use jobgateway_client::{Client, Hooks, pb::SendJobRequest};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::new("http://127.0.0.1:50051", "demo-token")?;
    let request = SendJobRequest::new("1", 7, "succeed", r#"{"duration": 1, "steps": 2}"#);
    let hooks = Hooks::default().on_progress(|job| {
        if let Some(progress) = &job.progress {
            println!("{:.1}% {}", progress.percentage(), progress.message);
        }
    });
    let end = client.run(request, hooks).finish().await?;
    let result = String::from_utf8(end.result)?;
    println!("{} {result}", end.job.status().as_str_name());
    Ok(())
}
