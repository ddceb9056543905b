//! Runs the steps of a scenario file and prints its observations (clients/README.md).

mod report;
mod scenario;

use std::cell::RefCell;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, bail};
use jobclient::connection::Connection;
use jobclient::failure::{Action, Failure};
use jobclient::many::{Item, WatchAll};
use jobclient::pb::job_service_client::JobServiceClient;
use jobclient::pb::{
    CancelJobRequest, GetJobRequest, Job, SendJobRequest, WaitJobRequest, WatchJobRequest,
};
use jobclient::watch::{Watch, WatchError};
use tokio::time::sleep;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use report::{ManyReporter, Reporter};
use scenario::{Operation, Pause, Scenario, Step};

type Stub = JobServiceClient<Channel>;

/// The maximum number of attempts of a unary call, including the first.
const MAX_ATTEMPTS: u32 = 5;
const DEADLINE: Duration = Duration::from_secs(30);

/// A step ended with an error that has been printed.
#[derive(Debug, thiserror::Error)]
#[error("reported")]
struct Reported;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    // tonic does not support service configs; `Caller::call` does the retries.
    let [target, scenario_file, _service_config] = arguments.as_slice() else {
        bail!("usage: jobclient TARGET SCENARIO-FILE SERVICE-CONFIG-FILE");
    };
    let scenario: Scenario =
        serde_json::from_str(&fs::read_to_string(scenario_file).context(scenario_file.clone())?)?;
    let token = env::var("JOBGATEWAY_TOKEN").context("JOBGATEWAY_TOKEN")?;
    let fresh_token = || env::var("JOBGATEWAY_FRESH_TOKEN").unwrap_or_default();
    let mut connection = Connection::new(format!("http://{target}"), &token, fresh_token)?;
    let mut sent = Vec::new();
    for step in scenario.steps {
        match perform(&mut connection, step, &mut sent).await {
            Err(error) if !error.is::<Reported>() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Runs one step. `sent` are the jobs that were sent so far.
async fn perform(connection: &mut Connection, step: Step, sent: &mut Vec<i64>) -> Result<()> {
    let uid = step.uid.or(sent.last().copied()).unwrap_or_default();
    match step.operation {
        Operation::Send { request, count } => {
            let mut caller = Caller::new(connection, "send", None);
            caller.repeatable = !request.request_id.is_empty();
            let send = async |mut stub: Stub, request| stub.send_job(request).await;
            let message = SendJobRequest::from(request);
            for _ in 0..count {
                sent.push(caller.call(message.clone(), send).await?.uid);
            }
        }
        Operation::Get => {
            let message = GetJobRequest {
                uid,
                ..Default::default()
            };
            let get = async |mut stub: Stub, request| stub.get_job(request).await;
            Caller::new(connection, "get", Some(uid))
                .call(message, get)
                .await?;
        }
        Operation::Wait { timeout_seconds } => {
            let timeout = Duration::from_secs(timeout_seconds);
            let mut message = WaitJobRequest {
                uid,
                ..Default::default()
            };
            message.timeout = Some(timeout.try_into()?);
            let mut caller = Caller::new(connection, "wait", Some(uid));
            caller.deadline += timeout;
            let wait = async |mut stub: Stub, request| stub.wait_job(request).await;
            while !caller.call(message, wait).await?.done {}
        }
        Operation::Cancel => {
            let cancel = async |mut stub: Stub, request| stub.cancel_job(request).await;
            Caller::new(connection, "cancel", Some(uid))
                .call(CancelJobRequest { uid }, cancel)
                .await?;
        }
        Operation::Watch { options } => {
            watch(connection, options.request(uid)?).await?;
        }
        Operation::WatchAll {
            uids,
            options,
            pause,
        } => {
            let uids = uids.iter().map(|uid| Ok(uid.parse()?));
            let uids = sent.iter().copied().map(Ok).chain(uids);
            let requests = uids.map(|uid: Result<i64>| options.request(uid?));
            watch_all(connection, requests.collect::<Result<_>>()?, pause).await?;
        }
    }
    Ok(())
}

async fn watch(connection: &mut Connection, request: WatchJobRequest) -> Result<()> {
    let mut reporter = Reporter::new("watch");
    let mut watch = Watch::new(connection, request, report::resumption);
    loop {
        match watch.next().await {
            Ok(Some(event)) => reporter.event(&event),
            Ok(None) => return Ok(()),
            Err(WatchError::Final(failure)) => {
                reporter.failure(&failure);
                bail!(Reported);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn watch_all(
    connection: &mut Connection,
    requests: Vec<WatchJobRequest>,
    mut pause: Pause,
) -> Result<()> {
    let reporter = RefCell::new(ManyReporter::default());
    let on_resume = |resumption: &_| reporter.borrow_mut().resumption(resumption);
    let mut watch = WatchAll::new(connection, requests, on_resume);
    loop {
        match watch.next().await {
            Ok(Some(item)) => {
                let uid = match &item {
                    Item::Event(event) => event.uid,
                    Item::Failed { uid, .. } => *uid,
                };
                reporter.borrow_mut().item(&item, watch.result(uid));
            }
            Ok(None) => break,
            Err(WatchError::Final(failure)) => {
                reporter.borrow_mut().failure(&failure);
                bail!(Reported);
            }
            Err(error) => return Err(error.into()),
        }
        let lines = reporter.borrow().lines();
        if pause.pause_after.is_some_and(|after| lines >= after) {
            pause.pause_after = None;
            sleep(Duration::from_secs(pause.pause_seconds)).await;
        }
    }
    reporter.borrow_mut().end();
    Ok(())
}

/// Makes the unary calls of one step, with retries.
struct Caller<'a> {
    connection: &'a mut Connection,
    reporter: Reporter,
    /// The job that the calls are about.
    uid: Option<i64>,
    deadline: Duration,
    /// A second call has no further effect.
    repeatable: bool,
}

impl<'a> Caller<'a> {
    fn new(connection: &'a mut Connection, step: &'static str, uid: Option<i64>) -> Self {
        Self {
            connection,
            reporter: Reporter::new(step),
            uid,
            deadline: DEADLINE,
            repeatable: true,
        }
    }

    async fn call<M: Clone>(
        &mut self,
        message: M,
        rpc: impl AsyncFn(Stub, Request<M>) -> Result<Response<Job>, Status>,
    ) -> Result<Job> {
        let mut logged_in = false;
        let mut attempt = 1;
        loop {
            let mut request = self.connection.request(message.clone(), self.uid);
            request.set_timeout(self.deadline);
            let failure = match rpc(self.connection.stub(), request).await {
                Ok(response) => {
                    self.reporter.job(response.get_ref());
                    return Ok(response.into_inner());
                }
                Err(status) => Failure::from(status),
            };
            self.reporter.failure(&failure);
            match failure.action() {
                Action::LogIn if !logged_in => {
                    self.connection.log_in()?;
                    logged_in = true;
                }
                Action::Retry if self.repeatable && attempt < MAX_ATTEMPTS => {
                    sleep(backoff(attempt).max(failure.retry_after.unwrap_or_default())).await;
                    attempt += 1;
                }
                _ => bail!(Reported),
            }
        }
    }
}

fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(rand::random_range(0..200 << attempt))
}
