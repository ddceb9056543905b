use std::sync::atomic::{AtomicU32, Ordering};

use tokio::join;
use tokio::task::yield_now;

use super::*;
use crate::fake::dropping;

/// Returns a token with logins that take a while, of which the first ones fail.
fn tokens(failures: u32) -> (Tokens, Arc<AtomicU32>) {
    let count = Arc::new(AtomicU32::new(0));
    let counter = count.clone();
    let login = move || {
        let number = counter.fetch_add(1, Ordering::Relaxed) + 1;
        async move {
            for _ in 0..10 {
                yield_now().await;
            }
            match number > failures {
                true => Ok(Some(number.to_string())),
                false => Err("no network"),
            }
        }
    };
    (Tokens::new(None, Some(boxed(login))), count)
}

#[test]
fn a_token_is_visible_ascii() {
    assert_eq!(bearer("a.b-c_~").unwrap(), "Bearer a.b-c_~");
    for token in [
        "secret\n",
        " secret",
        "se\rcret",
        "sécret",
        "se\x7fcret",
        "se\0cret",
    ] {
        let error = bearer(token).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("cret"));
        assert!(error.to_string().contains("remove white space"));
    }
}

#[tokio::test]
async fn a_login_continues_after_its_call_was_dropped() {
    let (tokens, count) = tokens(0);
    let mut login = None;
    let token = dropping!(tokens.get(&mut login)).unwrap();
    assert_eq!(token.unwrap(), "Bearer 1");
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_waiting_call_takes_over_the_login() {
    let (tokens, count) = tokens(0);
    let (mut first, mut second) = (None, None);
    assert!(tokens.get(&mut first).now_or_never().is_none());
    assert!(tokens.get(&mut second).now_or_never().is_none());
    drop(first);
    let token = tokens.get(&mut second).await.unwrap();
    assert_eq!(token.unwrap(), "Bearer 1");
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_login_that_no_call_waits_for_ends() {
    let (tokens, count) = tokens(0);
    assert!(tokens.get(&mut None).now_or_never().is_none());
    let token = tokens.get(&mut None).await.unwrap();
    assert_eq!(token.unwrap(), "Bearer 2");
    assert_eq!(count.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_failed_login_ends_one_call() {
    let (tokens, _) = tokens(1);
    let (mut first, mut second) = (None, None);
    let (one, two) = join!(tokens.get(&mut first), tokens.get(&mut second));
    assert_eq!(one.unwrap_err().to_string(), "login: no network");
    assert_eq!(two.unwrap().unwrap(), "Bearer 2");
}

#[tokio::test]
async fn a_panic_of_a_login_is_an_error() {
    async fn broken() -> Result<Option<String>, BoxError> {
        panic!("broken")
    }
    let tokens = Tokens::new(None, Some(boxed(broken)));
    for _ in 0..2 {
        let error = tokens.get(&mut None).await.unwrap_err();
        assert_eq!(error.to_string(), "login: the function panicked");
    }
}

#[tokio::test]
async fn an_invalid_token_of_a_login_is_an_error() {
    let tokens = Tokens::new(
        None,
        Some(boxed(async || Ok::<_, BoxError>(Some("a\n".into())))),
    );
    let error = tokens.get(&mut None).await.unwrap_err().to_string();
    assert!(
        error.starts_with("login: the token has a line break"),
        "{error}"
    );
}
