//! How a cluster is asked. The crate's own client sends a command again when its answer is lost, also one that
//! was written and may have been done, and its caller hears of the second answer alone. So it is told to send each
//! once; what goes again is what a node has refused, and nothing was done of that.

use std::time::Duration;

use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind};
use tokio::time::sleep;

/// Before what was refused goes again, growing to the last: in all as long as a node takes to be known, or more.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_millis(320);

/// Asks until a node takes it, for 0.6 s. Of several commands all are on keys of one slot, and refused together.
/// A slot that is being moved is refused by the node that it is moved to as well: its keys may be at either.
pub(super) async fn until_taken<T, F>(mut ask: impl FnMut() -> F) -> RedisResult<T>
where
    F: Future<Output = RedisResult<T>>,
{
    let mut pause = FIRST_PAUSE;
    loop {
        match ask().await {
            Err(error) if is_refused(&error) && pause <= LAST_PAUSE => {
                sleep(pause).await;
                pause *= 2;
            }
            answer => return answer,
        }
    }
}

/// What is to be done about the connection to a cluster after an error: one node's is no reason to keep callers from
/// the others.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    Keep,
    /// Another one is made, and takes its place once it is there.
    Renew,
    Discard,
}

/// Of an error that a new connection may not have.
pub(super) fn remedy(error: &RedisError) -> Remedy {
    match error.kind() {
        // It serves nobody.
        ErrorKind::ClusterConnectionNotFound => Remedy::Discard,
        // The crate connects to that node again by itself …
        _ if error.is_connection_dropped() => Remedy::Keep,
        // … but waits for ever for one that is silent, and does not ask who has taken over from it.
        _ => Remedy::Renew,
    }
}

/// Whether a node says that it is not the one, or not now; or there was none to send it to.
fn is_refused(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, ReadOnly, TryAgain};
    matches!(
        error.kind(),
        ErrorKind::Server(Ask | BusyLoading | ClusterDown | MasterDown | Moved | ReadOnly | TryAgain)
            | ErrorKind::ClusterConnectionNotFound
    )
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// How often it is asked when the first answers are these and then comes one.
    async fn asked(errors: Vec<RedisError>) -> (usize, RedisResult<()>) {
        let (mut errors, mut times) = (errors.into_iter(), 0);
        let answer = until_taken(|| {
            times += 1;
            std::future::ready(errors.next().map_or(Ok(()), Err))
        });
        let answer = answer.await;
        (times, answer)
    }

    #[tokio::test]
    async fn what_was_refused_goes_again_for_a_while_and_what_may_have_been_done_does_not() {
        let refused = || RedisError::from((ServerErrorKind::Moved.into(), "moved"));
        let (times, answer) = asked(vec![refused(), refused()]).await;
        assert!(times == 3 && answer.is_ok(), "{times} {answer:?}");
        let unsent = RedisError::from((ErrorKind::ClusterConnectionNotFound, "no node is connected"));
        let (times, answer) = asked(vec![unsent]).await;
        assert!(times == 2 && answer.is_ok(), "{times} {answer:?}");
        let (times, answer) = asked((0..100).map(|_| refused()).collect()).await;
        assert!(times == 6 && answer.is_err(), "{times} {answer:?}");
        let broken = io::Error::from(io::ErrorKind::BrokenPipe).into();
        let (times, answer) = asked(vec![broken]).await;
        assert!(times == 1 && answer.is_err(), "{times} {answer:?}");
    }

    #[test]
    fn one_node_that_is_away_costs_nobody_the_connection_to_the_others() {
        let io = |kind: io::ErrorKind| remedy(&io::Error::from(kind).into());
        for dropped in [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe] {
            assert_eq!(io(dropped), Remedy::Keep);
        }
        assert_eq!(io(io::ErrorKind::TimedOut), Remedy::Renew);
        let nobody = RedisError::from((ErrorKind::ClusterConnectionNotFound, "no node is connected"));
        assert_eq!(remedy(&nobody), Remedy::Discard);
    }
}
