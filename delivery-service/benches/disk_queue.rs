//! What a delivery costs the embedded queue: enqueued in groups, and settled in groups when some thousand others
//! have come, as under load, by lanes that are held, with event ids, past the bounds of history. Prints CPU by
//! thread, which is steady on a busy machine too, groups, bytes written, and the file's size.
//!
//! `cargo bench -p hookline-delivery-service --bench disk_queue -- [deliveries] [a group] [lanes] [folder]`

use std::{
    collections::{HashMap, VecDeque},
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{
    clock::Clock,
    ids::{DeliveryId, WebhookId},
};
use delivery_service::{
    delivery::{Attempt, Fault, Head, State},
    queue::{Fate, LaneNow, Lease, Limits, New, PageLimit, Queue, Settle, Settled, Stored, disk::DiskQueue},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Deliveries that are under way.
const OPEN: usize = 4_000;

/// What the process has used up to now.
struct Used {
    at: Instant,
    writer_ns: u64,
    all_ns: u64,
    written: u64,
    write_calls: u64,
}

fn used() -> Used {
    let (mut writer_ns, mut all_ns) = (0, 0);
    for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let ns = read("schedstat").split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
        all_ns += ns;
        if read("comm").trim() == "queue-writer" {
            writer_ns += ns;
        }
    }
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let of = |name: &str| {
        let line = io.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
    };
    Used { at: Instant::now(), writer_ns, all_ns, written: of("write_bytes:"), write_calls: of("syscw:") }
}

/// Webhooks sort in another order than they have deliveries in.
fn webhook(lane: u64) -> WebhookId {
    WebhookId::new((lane.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24) as i64, lane.into())
}

struct Load {
    queue: Arc<DiskQueue>,
    clock: Clock,
    lanes: u64,
    body: Bytes,
    made: u64,
}

impl Load {
    fn batch(&mut self, count: usize) -> Arc<Vec<New>> {
        let now = self.clock.now().0;
        let new = (0..count).map(|_| {
            let (n, lane) = (self.made, self.made % self.lanes);
            self.made += 1;
            let chance = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut head = Head::new(DeliveryId::new(0, now, chance), webhook(lane));
            head.license_code = format!("~load1764-{}", lane % 10);
            head.event_id = format!("1763926510.{n}.{}", 50 * n);
            head.event_type = format!("Event {}", lane / 10);
            head.order_key = format!("user-{}", n % 1_000);
            head.body_bytes = self.body.len() as u32;
            New { head, body: self.body.clone(), dedupe: true, failed: None }
        });
        Arc::new(new.collect())
    }

    fn outcomes(
        &self,
        batch: &[New],
        stored: &[Result<Stored, delivery_service::queue::QueueError>],
    ) -> Arc<Vec<Settle>> {
        let now = self.clock.now();
        let mut lanes: HashMap<WebhookId, Settle> = HashMap::new();
        for (new, stored) in batch.iter().zip(stored) {
            let Ok(Stored::New { place, lane: LaneNow::Mine { fence, .. }, .. }) = stored else {
                panic!("{stored:?}");
            };
            let lane = Lease { webhook_id: new.head.webhook_id(), fence: *fence };
            let mut head = new.head.clone();
            head.add(Attempt {
                number: 1,
                start_ms: now.0,
                duration_us: 312,
                http_status: 200,
                remote_address: "127.0.0.1:40211".into(),
                ..Attempt::default()
            });
            head.end(State::Succeeded, Fault::None, now);
            let settle = lanes.entry(lane.webhook_id).or_insert_with(|| Settle {
                lane,
                deliveries: Vec::new(),
                done_to: *place,
                memo: None,
                release: None,
            });
            settle.deliveries.push(Settled { head, place: *place, fate: Fate::Succeeded });
            settle.done_to = *place;
        }
        Arc::new(lanes.into_values().collect())
    }

    /// Batch by batch; while one is taken in, one from before is settled.
    async fn run(&mut self, count: u64, group: usize) -> u64 {
        let end = self.made + count;
        let mut before: VecDeque<Arc<Vec<Settle>>> = VecDeque::new();
        let (mut groups, mut claimed) = (0, Instant::now());
        while self.made < end {
            let batch = self.batch(group);
            let is_due = before.len() * group >= OPEN;
            let ended = before.pop_front_if(|_| is_due).unwrap_or_default();
            let (stored, settled) =
                tokio::join!(self.queue.enqueue(Arc::clone(&batch)), self.queue.settle(ended));
            assert!(settled.is_ok_and(|settled| settled.iter().all(Result::is_ok)), "a lease was lost");
            before.push_back(self.outcomes(&batch, &stored));
            groups += 1;
            if claimed.elapsed() > Duration::from_millis(500) {
                claimed = Instant::now();
                let page = PageLimit { deliveries: 1, bytes: 1, early: false };
                assert!(self.queue.claim(0, page).await.is_ok());
            }
        }
        for ended in before {
            assert!(self.queue.settle(ended).await.is_ok());
        }
        groups
    }
}

fn main() {
    let args: Vec<String> = env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let number = |n: usize, default: u64| args.get(n).and_then(|arg| arg.parse().ok()).unwrap_or(default);
    let (count, group, lanes) = (number(0, 100_000), number(1, 256) as usize, number(2, 100));
    let folder = args.get(3).map_or_else(env::temp_dir, PathBuf::from).join("hookline-bench");
    let _ = fs::remove_dir_all(&folder);
    let limits = Limits::default();
    let warm = limits.ended_kept * 11 / 10 * lanes.min(100);
    let Ok(queue) = DiskQueue::open(&folder, Clock::System, limits, 0) else { panic!("cannot open") };
    let body = Bytes::from("{\"id\":\"0123456789\"}".repeat(54));
    let mut load = Load { queue, clock: Clock::System, lanes, body, made: 0 };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { panic!("no runtime") };
    if group > 1 {
        runtime.block_on(load.run(warm, 1_024));
    }
    let before = used();
    let groups = runtime.block_on(load.run(count, group));
    let after = used();
    report(&before, &after, groups, count, &folder);
    drop(load);
    let _ = fs::remove_dir_all(&folder);
}

fn report(before: &Used, after: &Used, groups: u64, count: u64, folder: &Path) {
    let seconds = after.at.duration_since(before.at).as_secs_f64();
    let each = |before: u64, after: u64| (after - before) as f64 / count as f64;
    println!(
        "{:.2} us of the writer, {:.2} of the process; {:.0}/s in {:.0} groups/s; {:.0} B in {:.2} writes \
         each; file {} MiB, memory {}",
        each(before.writer_ns, after.writer_ns) / 1e3,
        each(before.all_ns, after.all_ns) / 1e3,
        count as f64 / seconds,
        groups as f64 / seconds,
        each(before.written, after.written),
        each(before.write_calls, after.write_calls),
        fs::metadata(folder.join("queue.redb")).map_or(0, |file| file.len() >> 20),
        fs::read_to_string("/proc/self/status")
            .unwrap_or_default()
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap_or_default()
            .trim(),
    );
}
