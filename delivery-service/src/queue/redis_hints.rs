//! Hints: what happens in a lane that this process holds is said on a channel of its own, so that it need
//! not wait for its next claim. A hint that is lost costs no more than that wait: the lane stands among
//! the holder's news too. Sharded pub/sub, a channel a shard, so it works alike on a cluster.

use std::{sync::Arc, time::Duration};

use common::{
    ids::WebhookId,
    redis::{Connection, Master, slot},
};
use redis::{PushInfo, PushKind, RedisResult, Value, aio::MultiplexedConnection, cmd};
use tokio::{
    sync::mpsc::{self, UnboundedReceiver},
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// Hears that something has happened in a lane; it must not wait.
pub type Hear = Box<dyn Fn(WebhookId) + Send + Sync>;

/// Between two tries to subscribe, growing.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A silent connection is asked whether it lives.
const SILENCE: Duration = Duration::from_secs(5);

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
                Ok((lines, pushes)) => {
                    pause = FIRST_PAUSE;
                    listening.hear(lines, pushes).await;
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
    async fn subscribe(&self) -> RedisResult<(Vec<MultiplexedConnection>, UnboundedReceiver<PushInfo>)> {
        let (sender, pushes) = mpsc::unbounded_channel();
        let mut lines = Vec::new();
        for master in self.connection.masters().await? {
            let mut line = self.connection.dial(&master, Some(sender.clone())).await?;
            for channel in self.of(&master) {
                // A command each: on a cluster one command takes the channels of one slot alone.
                let mut subscribe = cmd("SSUBSCRIBE");
                subscribe.arg(channel);
                line.send_packed_command(&subscribe).await?.extract_error()?;
            }
            lines.push(line);
        }
        Ok((lines, pushes))
    }

    fn of(&self, master: &Master) -> impl Iterator<Item = &String> {
        let master = master.clone();
        self.channels.iter().filter(move |(_, at)| master.has(*at)).map(|(channel, _)| channel)
    }

    /// Until a connection breaks, or a channel has moved to another server.
    async fn hear(&self, mut lines: Vec<MultiplexedConnection>, mut pushes: UnboundedReceiver<PushInfo>) {
        loop {
            let Ok(push) = timeout(SILENCE, pushes.recv()).await else {
                for line in &mut lines {
                    if line.send_packed_command(&cmd("PING")).await.is_err() {
                        return;
                    }
                }
                continue;
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
