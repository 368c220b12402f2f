//! What is asked of Redis beyond its commands: durability of what it accepts, room in its memory, and
//! hints of what others do in a lane.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::{ids::WebhookId, redis::check_setup};
use delivery_service::queue::{
    Durability, Lanes, Limits, Queue, QueueError, Stored, check_durability,
    redis::{RedisQueue, Safety},
};
use redis::{Value, cmd};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    bench::{Backend, Bench, lane, new_for, page},
    redis::{Clustered, Single, connection},
    redis_server::Server,
};

const SOON: Duration = Duration::from_secs(10);

async fn open(server: &Server, durability: Durability, memory_limit: Option<u64>) -> Arc<RedisQueue> {
    let connection = connection(&server.address());
    let safety = Safety { durability, memory_limit };
    RedisQueue::open_safely(connection, "p", Limits::default(), safety).await.unwrap()
}

async fn put(queue: &RedisQueue, number: u64) -> Result<Stored, QueueError> {
    queue.enqueue(Arc::new(vec![new_for(queue, lane(1), number)])).await.remove(0)
}

async fn fits(server: &Server, durability: Durability) -> Result<(), String> {
    check_durability(&connection(&server.address()), durability).await.unwrap()
}

/// A server that follows `master`, as far as it is by now.
async fn replica_of(master: &Server) -> Server {
    let replica = master.another(&["--replicaof", "127.0.0.1", &master.port().to_string()]);
    let started = Instant::now();
    loop {
        let info: String =
            redis::from_redis_value(replica.ask(cmd("INFO").arg("replication")).await).unwrap();
        if info.contains("master_link_status:up") {
            return replica;
        }
        assert!(started.elapsed() < SOON, "{info}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_is_promised_where_redis_can_give_it() {
    let nothing = Server::start();
    let why = fits(&nothing, Durability::Fsync).await.unwrap_err();
    assert!(why.contains("appendonly yes"), "{why}");
    let old = Server::with(&["--appendonly", "yes", "--appendfsync", "everysec"]);
    let version: String = redis::from_redis_value(old.ask(cmd("INFO").arg("server")).await).unwrap();
    if version.contains("redis_version:7.0") {
        let why = fits(&old, Durability::Fsync).await.unwrap_err();
        assert!(why.contains("appendfsync always"), "{why}");
    }
    old.ask(cmd("CONFIG").arg("SET").arg("appendfsync").arg("always")).await;
    fits(&old, Durability::Fsync).await.unwrap();
    let queue = open(&old, Durability::Fsync, None).await;
    assert!(matches!(put(&queue, 1).await, Ok(Stored::New { .. })));
    assert!(matches!(put(&queue, 1).await, Ok(Stored::Duplicate { .. })));
    // A server that no longer can says so, once it is dialled anew.
    old.ask(cmd("SCRIPT").arg("FLUSH")).await;
    assert!(matches!(put(&queue, 2).await, Ok(Stored::New { .. })), "scripts are sent again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn valkey_syncs_before_it_accepts() {
    let valkey = Server::valkey(&["--appendonly", "yes", "--appendfsync", "everysec"]);
    fits(&valkey, Durability::Fsync).await.unwrap();
    let queue = open(&valkey, Durability::Fsync, None).await;
    assert!(matches!(put(&queue, 1).await, Ok(Stored::New { .. })));
    let stats = valkey.ask(cmd("INFO").arg("commandstats")).await;
    let stats: String = redis::from_redis_value(stats).unwrap();
    assert!(stats.contains("cmdstat_waitaof"), "{stats}");
    valkey.ask(cmd("CONFIG").arg("SET").arg("appendfsync").arg("no")).await;
    let why = fits(&valkey, Durability::Fsync).await.unwrap_err();
    assert!(why.contains("it is no"), "{why}");
    valkey.ask(cmd("CONFIG").arg("SET").arg("appendonly").arg("no")).await;
    let refused = put(&queue, 2).await;
    assert!(matches!(refused, Err(QueueError::Unavailable(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_has_what_is_accepted_and_what_is_not_is_delivered_all_the_same() {
    for master in [Server::start(), Server::valkey(&["--appendonly", "no"])] {
        let queue = open(&master, Durability::Replicas(1), None).await;
        let new = new_for(&*queue, lane(1), 1);
        let asked = Instant::now();
        let refused = queue.enqueue(Arc::new(vec![new.clone()])).await.remove(0);
        assert!(
            matches!(&refused, Err(QueueError::Unavailable(why)) if why.contains("0 of 1")),
            "{refused:?}"
        );
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        assert!(queue.get(new.head.id()).await.unwrap().is_some(), "it is stored, and will be delivered");
        // Its lane is nobody's to know of: it is given back, and found.
        let found = async {
            loop {
                let claimed = queue.claim(1, page(1)).await.unwrap();
                if let Some(grant) = claimed.lanes.first() {
                    return grant.page.deliveries[0].head.id();
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        assert_eq!(timeout(SOON, found).await.unwrap(), new.head.id());
    }
    let master = Server::start();
    let replica = replica_of(&master).await;
    let queue = open(&master, Durability::Replicas(1), None).await;
    assert!(matches!(put(&queue, 2).await, Ok(Stored::New { .. })));
    let heads = replica.ask(cmd("HLEN").arg("p:{q0}:heads")).await;
    assert_eq!(heads, Value::Int(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_replicas_lag_nothing_more_is_written_and_nobody_waits_for_them() {
    let master = Server::start();
    let queue = open(&master, Durability::Replicas(1), None).await;
    let too_few = put(&queue, 1).await;
    assert!(matches!(&too_few, Err(QueueError::Unavailable(why)) if why.contains("0 of 1")), "{too_few:?}");
    let next = new_for(&*queue, lane(2), 2);
    let asked = Instant::now();
    let refused = queue.enqueue(Arc::new(vec![next.clone()])).await.remove(0);
    assert!(matches!(&refused, Err(QueueError::Unavailable(why)) if why.contains("0 of 1")), "{refused:?}");
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert!(queue.get(next.head.id()).await.unwrap().is_none(), "it is not stored");

    // Once one is there, and has what came before, it goes on.
    let replica = replica_of(&master).await;
    let taken = timeout(SOON, async {
        while queue.enqueue(Arc::new(vec![next.clone()])).await.remove(0).is_err() {}
    });
    taken.await.expect("a replica is there");
    assert_eq!(replica.ask(cmd("HLEN").arg("p:{q0}:heads")).await, Value::Int(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_by_another_process_is_as_durable_as_what_it_repeats() {
    // Each has ideas of its own of what a connection has written.
    for master in [Server::start(), Server::valkey(&["--appendonly", "no"])] {
        let replica = replica_of(&master).await;
        let [one, other] = [
            open(&master, Durability::Replicas(1), None).await,
            open(&master, Durability::Replicas(1), None).await,
        ];
        assert!(matches!(put(&one, 1).await, Ok(Stored::New { .. })));
        assert!(matches!(put(&other, 1).await, Ok(Stored::Duplicate { .. })));
        replica.freeze();
        for queue in [&one, &other, &one] {
            let refused = put(queue, 2).await;
            assert!(
                matches!(&refused, Err(QueueError::Unavailable(why)) if why.contains("0 of 1")),
                "{refused:?}"
            );
        }
        replica.thaw();
        let taken = timeout(SOON, async { while put(&other, 2).await.is_err() {} });
        taken.await.expect("the replica goes on");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_written_to_node_by_node() {
    let bench = Bench::<Clustered>::start().await;
    let connection = connection(&bench.backend.address());
    let safety = Safety { durability: Durability::Replicas(1), memory_limit: None };
    let queue = RedisQueue::open_safely(connection, "nodes", Limits::default(), safety).await.unwrap();
    let news: Vec<_> = (1..=30).map(|n| new_for(&*queue, lane(n), n)).collect();
    let refused = queue.enqueue(Arc::new(news.clone())).await;
    let too_few = |result: &Result<Stored, QueueError>| matches!(result, Err(QueueError::Unavailable(why)) if why.contains("0 of 1"));
    assert!(refused.iter().all(too_few), "{refused:?}");
    let repeated = queue.enqueue(Arc::new(news)).await;
    assert!(repeated.iter().all(too_few), "a repeat is no more durable: {repeated:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_near_its_limit_takes_nothing_new_and_goes_on_with_the_rest() {
    let bench = Bench::<Single>::start().await;
    let there = bench.put(lane(1)).await;
    let server = bench.backend.server();
    let queue = open(server, Durability::Memory, Some(1)).await;
    let refused = put(&queue, 1).await;
    assert!(matches!(refused, Err(QueueError::Full(_))), "{refused:?}");
    assert!(bench.queue.get(there.id).await.unwrap().is_some());
    assert!(queue.claim(1, page(1)).await.is_ok());

    // A limit of the server's own, which comes and goes.
    let queue = open(server, Durability::Memory, None).await;
    let until = |full: bool| {
        let queue = queue.clone();
        async move {
            for n in 0.. {
                let refused = matches!(put(&queue, 10 + n).await, Err(QueueError::Full(_)));
                if refused == full {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    // Beside so much the buffers of connections, which come and go, are little.
    server.ask(cmd("SET").arg("ballast").arg(vec![0_u8; 16 << 20])).await;
    let info: String = redis::from_redis_value(server.ask(cmd("INFO").arg("memory")).await).unwrap();
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    let used: u64 = used.trim().parse().unwrap();
    server.ask(cmd("CONFIG").arg("SET").arg("maxmemory").arg(used * 21 / 20)).await;
    timeout(SOON, until(true)).await.expect("it is refused before Redis refuses");
    server.ask(cmd("CONFIG").arg("SET").arg("maxmemory").arg(0)).await;
    timeout(SOON, until(false)).await.expect("there is room again");
}

async fn holders_hear<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let other = bench.backend.open().await;
    let (heard, mut hints) = mpsc::unbounded_channel::<WebhookId>();
    bench.queue.on_news(Box::new(move |lane| {
        let _ = heard.send(lane);
    }));
    for n in 1..=8 {
        let put = bench.put(lane(n)).await;
        let lease = put.lease();
        // Until it listens, hints go nowhere.
        let first = async {
            loop {
                other.wake(Lanes::These(vec![lane(n)])).await.unwrap();
                if let Ok(hint) = timeout(Duration::from_millis(50), hints.recv()).await {
                    return hint;
                }
            }
        };
        assert_eq!(timeout(SOON, first).await.unwrap(), Some(lane(n)));
        while hints.try_recv().is_ok() {}
        for _ in 0..2 {
            other.enqueue(Arc::new(vec![bench.new_for(lane(n))])).await.remove(0).unwrap();
            let hint = timeout(SOON, async {
                // A last wake may still be on its way.
                while hints.recv().await != Some(lane(n)) {}
            });
            hint.await.expect("a hint after each read");
            while hints.try_recv().is_ok() {}
            let read = bench.queue.read(lease, put.place, 0, page(10)).await.unwrap().unwrap();
            assert!(!read.deliveries.is_empty());
        }
        other.retry(put.id).await.unwrap();
        timeout(SOON, hints.recv()).await.expect("a hint of a retry");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_hears_at_once_of_what_others_do_in_its_lanes() {
    holders_hear::<Single>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_hears_at_once_on_a_cluster_too() {
    holders_hear::<Clustered>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_servers_setup_can_be_checked_where_config_is_forbidden_too() {
    let server = Server::start();
    check_setup(&connection(&server.address()), true).await.unwrap();
    server.ask(cmd("ACL").arg(&["SETUSER", "default", "-config"])).await;
    let connection = connection(&server.address());
    check_setup(&connection, true).await.unwrap();
    let master = connection.masters().await.unwrap().remove(0);
    assert_eq!(connection.config(&master, "save").await.unwrap(), None);
}
