//! Runs the steps of a scenario file and prints its observations (clients/README.md).

mod report;
mod scenario;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, bail};
use jobgateway_client::pb::{GetJobRequest, Job, RunJobRequest, WaitJobRequest, WatchJobRequest};
use jobgateway_client::{Client, Error, Hooks, Item, Watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use report::{ManyReporter, Reporter};
use scenario::{Operation, Pause, Scenario, Step};

/// A step ended with an error that has been printed.
#[derive(Debug, thiserror::Error)]
#[error("reported")]
struct Reported;

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    // tonic does not support service configs; the client does the retries.
    let [target, scenario_file, _service_config] = arguments.as_slice() else {
        bail!("usage: scenario TARGET SCENARIO-FILE SERVICE-CONFIG-FILE");
    };
    let scenario: Scenario =
        serde_json::from_str(&fs::read_to_string(scenario_file).context(scenario_file.clone())?)?;
    // The first login returns the token of the start.
    let first = AtomicBool::new(true);
    let login = move || {
        let name = match first.swap(false, Ordering::Relaxed) {
            true => "JOBGATEWAY_TOKEN",
            false => "JOBGATEWAY_FRESH_TOKEN",
        };
        async move { env::var(name).map(Some) }
    };
    let uri = format!("http://{target}");
    let client = Client::builder(uri).login(login).build()?;
    let mut sent = Vec::new();
    for step in scenario.steps {
        match perform(&client, step, &mut sent).await {
            Err(error) if !error.is::<Reported>() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Runs one step. `sent` are the jobs that were sent so far.
async fn perform(client: &Client, step: Step, sent: &mut Vec<i64>) -> Result<()> {
    let uid = step.uid.or(sent.last().copied()).unwrap_or_default();
    match step.operation {
        Operation::Send { request, count } => {
            for _ in 0..count {
                let job = client.send(request.clone().into(), unary_hooks("send"));
                sent.push(report("send", job.await)?.uid);
            }
        }
        Operation::Get => {
            let request = GetJobRequest {
                uid,
                ..Default::default()
            };
            report("get", client.get(request, unary_hooks("get")).await)?;
        }
        Operation::Wait { timeout_seconds } => {
            let request = WaitJobRequest {
                uid,
                timeout: Some(Duration::from_secs(timeout_seconds).try_into()?),
                ..Default::default()
            };
            while !report("wait", client.wait(request, unary_hooks("wait")).await)?.done {}
        }
        Operation::Cancel => {
            report("cancel", client.cancel(uid, unary_hooks("cancel")).await)?;
        }
        Operation::Watch { options } => {
            let hooks = watch_hooks("watch", None);
            let watch = client.watch(options.request(uid)?, hooks);
            events(watch, Reporter::new("watch", None)).await?;
        }
        Operation::Run { request, options } => {
            let request = RunJobRequest {
                request: Some(request.into()),
                heartbeat_interval: options.request(0)?.heartbeat_interval,
                ..Default::default()
            };
            let run = client.run(request, watch_hooks("run", None));
            events(run, Reporter::new("run", None)).await?;
        }
        Operation::WatchEach { options } => {
            let mut watches = JoinSet::new();
            for uid in sent.iter().copied() {
                let hooks = watch_hooks("watch_each", Some(uid));
                let watch = client.watch(options.request(uid)?, hooks);
                watches.spawn(events(watch, Reporter::new("watch_each", Some(uid))));
            }
            for ended in watches.join_all().await {
                ended.or_else(|error| error.downcast::<Reported>().map(|_| ()))?;
            }
        }
        Operation::WatchAll {
            uids,
            options,
            pause,
        } => {
            let uids = uids.iter().map(|uid| Ok(uid.parse()?));
            let uids = sent.iter().copied().map(Ok).chain(uids);
            let requests = uids.map(|uid: Result<i64>| options.request(uid?));
            watch_all(client, requests.collect::<Result<_>>()?, pause).await?;
        }
    }
    Ok(())
}

fn unary_hooks(step: &'static str) -> Hooks<'static> {
    let mut reporter = Reporter::new(step, None);
    Hooks::default().on_retry(move |retry| reporter.failure(&retry.failure))
}

fn watch_hooks(step: &'static str, uid: Option<i64>) -> Hooks<'static> {
    let mut reporter = Reporter::new(step, uid);
    Hooks::default().on_retry(move |retry| reporter.retry(retry))
}

/// Prints the job or the error of a unary call.
fn report(step: &'static str, outcome: Result<Job, Error>) -> Result<Job> {
    let mut reporter = Reporter::new(step, None);
    match outcome {
        Ok(job) => {
            reporter.job(&job);
            Ok(job)
        }
        Err(Error::Call(failure)) => {
            reporter.failure(&failure);
            bail!(Reported)
        }
        Err(error) => Err(error.into()),
    }
}

/// Prints the events of a watch.
async fn events(mut watch: Watch<'static>, mut reporter: Reporter) -> Result<()> {
    loop {
        match watch.next().await {
            Ok(Some(event)) => reporter.event(&event, watch.result()),
            Ok(None) => return Ok(()),
            Err(Error::Call(failure)) => {
                reporter.failure(&failure);
                bail!(Reported);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn watch_all(
    client: &Client,
    requests: Vec<WatchJobRequest>,
    mut pause: Pause,
) -> Result<()> {
    let reporter = Mutex::new(ManyReporter::default());
    let reporter = || reporter.lock().expect("no thread panicked");
    let hooks = Hooks::default().on_retry(|retry| reporter().retry(retry));
    let mut watch = client.watch_all(requests, hooks);
    loop {
        match watch.next().await {
            Ok(Some(item)) => {
                let uid = match &item {
                    Item::Event(event) => event.uid,
                    Item::Failed { uid, .. } => *uid,
                    other => bail!("unknown item {other:?}"),
                };
                reporter().item(&item, watch.result(uid));
            }
            Ok(None) => break,
            Err(Error::Call(failure)) => {
                reporter().failure(&failure);
                bail!(Reported);
            }
            Err(error) => return Err(error.into()),
        }
        let lines = reporter().lines();
        if pause.pause_after.is_some_and(|after| lines >= after) {
            pause.pause_after = None;
            sleep(Duration::from_secs(pause.pause_seconds)).await;
        }
    }
    reporter().end();
    Ok(())
}
