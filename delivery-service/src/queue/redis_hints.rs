//! Hints: what happens in a lane that this process holds is said on a channel of its own, so that it need
//! not wait for its next claim. A hint that is lost costs no more than that wait: the lane stands among
//! the holder's news too. Sharded pub/sub, a channel a shard, so it works alike on a cluster.

use std::{sync::Arc, time::Duration};

use common::{
    ids::WebhookId,
    redis::{Connection, Master, slot},
};
use futures_util::future::join_all;
use redis::{PushInfo, PushKind, RedisResult, Value, aio::MultiplexedConnection, cmd};
use tokio::{
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    time::{interval, sleep},
};
use tokio_util::task::AbortOnDropHandle;

/// Hears that something has happened in a lane; it must not wait.
pub type Hear = Box<dyn Fn(WebhookId) + Send + Sync>;

/// Between two tries to subscribe, growing.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often connections are asked whether they live.
const SILENCE: Duration = Duration::from_secs(5);

/// What is listened to.
struct Lines {
    lines: Vec<MultiplexedConnection>,
    pushes: UnboundedReceiver<PushInfo>,
    /// Whether every server was there.
    all: bool,
}

struct Listening {
    connection: Connection,
    /// A shard's channel and its slot.
    channels: Vec<(String, u16)>,
    hear: Hear,
}

/// Listens until the handle is dropped. `bases`: what the keys of each shard begin with.
pub(super) fn listen(
    connection: Connection,
    bases: &[String],
    holder: &str,
    hear: Hear,
) -> AbortOnDropHandle<()> {
    let channels = bases.iter().map(|base| (format!("{base}hints:{holder}"), slot(base))).collect();
    let listening = Arc::new(Listening { connection, channels, hear });
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut pause = FIRST_PAUSE;
        loop {
            match listening.subscribe().await {
                Ok(lines) => {
                    pause = FIRST_PAUSE;
                    listening.hear(lines).await;
                    tracing::debug!("hints have stopped: until they are back, lanes are looked at by claims");
                }
                Err(error) => tracing::debug!(%error, "could not subscribe to hints"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }))
}

impl Listening {
    /// Of a cluster, at those that answer.
    async fn subscribe(&self) -> RedisResult<Lines> {
        let (sender, pushes) = mpsc::unbounded_channel();
        let masters = self.connection.masters().await?;
        let asked = join_all(masters.iter().map(|master| self.line(master, sender.clone()))).await;
        let (mut lines, mut failure) = (Vec::new(), None);
        for line in asked {
            match line {
                Ok(line) => lines.push(line),
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) if lines.is_empty() => Err(error),
            failure => Ok(Lines { lines, pushes, all: failure.is_none() }),
        }
    }

    async fn line(
        &self,
        master: &Master,
        pushes: UnboundedSender<PushInfo>,
    ) -> RedisResult<MultiplexedConnection> {
        let mut line = self.connection.dial(master, Some(pushes)).await?;
        for channel in self.of(master) {
            // A command each: on a cluster one command takes the channels of one slot alone.
            let mut subscribe = cmd("SSUBSCRIBE");
            subscribe.arg(channel);
            line.send_packed_command(&subscribe).await?.extract_error()?;
        }
        Ok(line)
    }

    fn of(&self, master: &Master) -> impl Iterator<Item = &String> {
        let master = master.clone();
        self.channels.iter().filter(move |(_, at)| master.has(*at)).map(|(channel, _)| channel)
    }

    /// Until a connection breaks, or a channel has moved to another server; for a while when a server was away.
    async fn hear(&self, Lines { mut lines, mut pushes, all }: Lines) {
        let (mut looks, ping) = (interval(SILENCE), cmd("PING"));
        looks.tick().await;
        loop {
            let push = tokio::select! {
                push = pushes.recv() => push,
                _ = looks.tick() => {
                    let asked = join_all(lines.iter_mut().map(|line| line.send_packed_command(&ping))).await;
                    if !all || asked.iter().any(Result::is_err) {
                        return;
                    }
                    continue;
                }
            };
            match push.map(|push| (push.kind, push.data)) {
                Some((PushKind::SMessage, data)) => {
                    if let Some(Value::BulkString(lane)) = data.get(1)
                        && let Ok(lane) = lane.as_slice().try_into()
                    {
                        (self.hear)(WebhookId::from_bytes(lane));
                    }
                }
                Some((PushKind::SSubscribe, _)) => {}
                Some((PushKind::SUnsubscribe | PushKind::Disconnection, _)) | None => return,
                Some(_) => {}
            }
        }
    }
}
