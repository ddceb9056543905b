use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::join;
use tokio::net::TcpListener;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::yield_now;
use tonic::{Code, Status};

use super::*;
use crate::failure::Failure;
use crate::fake::Gateway;
use crate::{Hooks, pb::GetJobRequest, rules::Backoff, tls_from_files};

fn counting(logins: &Arc<AtomicU32>) -> ClientBuilder {
    let logins = logins.clone();
    Client::builder("http://127.0.0.1:1").login(move || {
        let number = logins.fetch_add(1, Ordering::Relaxed);
        async move {
            yield_now().await; // the other calls begin
            Ok::<_, BoxError>(Some(number.to_string()))
        }
    })
}

#[tokio::test]
async fn calls_share_one_login_and_one_new_connection() {
    let logins = Arc::default();
    let client = counting(&logins).build().unwrap();
    let (mut first, mut second) = (None, None);
    let (one, two) = join!(client.access(&mut first), client.access(&mut second));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(logins.load(Ordering::Relaxed), 1);
    let (renewed, again) = join!(
        client.renew(&one, &mut first),
        client.renew(&two, &mut second)
    );
    assert!(renewed.unwrap() && again.unwrap());
    assert_eq!(logins.load(Ordering::Relaxed), 2);
    let mut retry = Retry::new(Failure::new(Code::Unavailable, ""), &mut Backoff::default());
    retry.wait = Duration::ZERO;
    for access in [&one, &two] {
        client.wait_for(&Pause::new(&retry, access.clone())).await;
    }
    let access = client.access(&mut None).await.unwrap();
    assert_eq!(access.token.unwrap(), "Bearer 1");
    assert_eq!(access.connection.number, 1);
    retry.new_connection = false;
    client.wait_for(&Pause::new(&retry, one)).await;
    let access = client.access(&mut None).await.unwrap();
    assert_eq!(access.connection.number, 1);
}

#[tokio::test]
async fn an_error_of_a_login_ends_a_call() {
    let client = Client::builder("http://127.0.0.1:1").login(async || Err("no network"));
    let call = client.build().unwrap();
    let error = call.get(GetJobRequest::default(), Hooks::default()).await;
    assert_eq!(error.unwrap_err().to_string(), "login: no network");
}

#[tokio::test]
async fn a_token_that_never_changes_is_not_renewed() {
    let client = Client::new("http://127.0.0.1:1", "a").unwrap();
    let used = client.access(&mut None).await.unwrap();
    assert!(!client.renew(&used, &mut None).await.unwrap());
    assert_eq!(client.access(&mut None).await.unwrap().token, used.token);
}

#[test]
fn a_token_is_never_sent_in_plaintext_by_mistake() {
    let build = |uri: &str| {
        let tls = ClientTlsConfig::new();
        Client::builder(uri).tls(tls).build().err()
    };
    assert!(matches!(
        build("http://127.0.0.1:1"),
        Some(BuildError::Plaintext)
    ));
    assert!(build("https://127.0.0.1:1").is_none());
    for uri in [
        "127.0.0.1:1",
        "ftp://127.0.0.1",
        "",
        "http://a b:1",
        " http://a:1",
    ] {
        assert!(matches!(build(uri), Some(BuildError::Address)), "{uri}");
    }
    assert!(tls_from_files(Some("none.pem".as_ref()), None).is_err());
}

#[test]
fn debug_output_shows_no_token() {
    let builder = Client::builder("http://127.0.0.1:1").token("secret");
    let shown = format!(
        "{builder:?} {:?}",
        Client::new("http://127.0.0.1:1", "secret").unwrap()
    );
    assert!(
        shown.contains("127.0.0.1") && !shown.contains("secret"),
        "{shown}"
    );
}

#[tokio::test]
async fn an_adjusted_endpoint_keeps_the_other_settings() {
    let mut gateway = Gateway::start().await;
    let builder = Client::builder(&gateway.uri).endpoint(|endpoint| {
        assert_eq!(
            endpoint.get_connect_timeout(),
            Some(Duration::from_secs(10))
        );
        let endpoint = endpoint.connect_timeout(Duration::from_secs(1));
        // Without the client's own limits, it would end the call before the response.
        endpoint.user_agent("mine").unwrap().timeout(Duration::ZERO)
    });
    let client = builder.build().unwrap();
    let connect_timeout = client.shared.endpoint.get_connect_timeout();
    assert_eq!(connect_timeout, Some(Duration::from_secs(1)));
    let respond = async {
        let mut call = gateway.call().await;
        assert!(
            call.headers["user-agent"]
                .to_str()
                .unwrap()
                .starts_with("mine ")
        );
        call.fail(Status::not_found("no such job"));
    };
    let call = client.get(GetJobRequest::default(), Hooks::default());
    let (error, ()) = join!(call, respond);
    assert_eq!(error.unwrap_err().to_string(), "no such job [NotFound]");
}

#[tokio::test]
async fn an_adjusted_keepalive_notices_a_dead_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let often = Duration::from_millis(10);
    let builder = Client::builder(uri).endpoint(move |endpoint| {
        let endpoint = endpoint.http2_keep_alive_interval(often);
        endpoint.keep_alive_timeout(often)
    });
    let (sender, mut failures) = unbounded_channel();
    let hooks = Hooks::default().on_retry(move |retry| {
        let _ = sender.send(retry.failure.clone());
    });
    let client = builder.build().unwrap();
    let failure = tokio::select! {
        failure = failures.recv() => failure.unwrap(),
        _ = client.get(GetJobRequest::default(), hooks) => panic!("the call ended"),
    };
    assert!(failure.message.contains("keep-alive"), "{failure}");
}
