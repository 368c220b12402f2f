//! One work of a group of commands. What it cannot read, a lane's row or a delivery's record that is damaged, is harm
//! to that lane or that delivery alone: its caller is told, and the rest of the group stands.

use common::clock::Time;

use super::{
    Lanes as Which, Lease, LeaseLost, QueueError,
    disk_changes::Changes,
    disk_group::Group,
    disk_lanes::{ASIDE, Lanes},
    disk_work::{Done, Work},
};

/// Does it. An error is the group's: the file cannot be used any longer.
pub(super) fn one(
    group: &mut Group<'_, '_>,
    work: Work,
    room: &Result<(), QueueError>,
    changes: &Changes,
) -> Result<Result<Done, QueueError>, QueueError> {
    match (work, room) {
        (Work::Enqueue(_), Err(full)) => Ok(Err(full.clone())),
        (Work::Enqueue(new), Ok(())) => {
            let stored = new.iter().map(|new| alone(group, changes, |group| group.enqueue(new)));
            Ok(Ok(Done::Enqueued(stored.collect::<Result<_, _>>()?)))
        }
        (Work::Settle(settles), _) => {
            let settled = settles.iter().map(|settle| {
                let settled = alone(group, changes, |group| group.settle(settle))?;
                Ok(settled.unwrap_or_else(|error| {
                    // Nothing of it was stored, as if the lease were lost: the holder forgets the lane. An error would
                    // be one for all lanes of the call, which would come again with this one, for ever.
                    leave(group.lanes, settle.lane, &error, group.now);
                    Err(LeaseLost)
                }))
            });
            Ok(Ok(Done::Settled(settled.collect::<Result<_, QueueError>>()?)))
        }
        (work, _) => alone(group, changes, |group| other(group, work)),
    }
}

fn other(group: &mut Group<'_, '_>, work: Work) -> Result<Done, QueueError> {
    Ok(match work {
        Work::Wake(Which::These(lanes)) => {
            lanes.into_iter().try_for_each(|lane| group.wake(lane)).map(|()| Done::Woken)?
        }
        Work::Wake(Which::Parked) => group.wake_parked().map(|()| Done::Woken)?,
        Work::Retry(id) => Done::Retried(group.retry(id)?),
        Work::Cancel(lane, which) => Done::Cancelled(group.cancel(lane, &which)?),
        Work::Bulk(lane, from, to) => Done::Bulk(group.retry_bulk(lane, from, to)?),
        Work::Slice(lane, most) => Done::Slice(group.retry_slice(lane, most)?),
        Work::StopBulk(lane) => group.stop_bulk(lane).map(|()| Done::Woken)?,
        // `one` does the first two, and these change nothing.
        Work::Enqueue(_) | Work::Settle(_) | Work::Claim(..) | Work::Read(..) | Work::Flush => Done::Flushed,
    })
}

/// What is met that cannot be read is answered so, as long as nothing was changed before: nothing stands by halves.
fn alone<'g, 't, T>(
    group: &mut Group<'g, 't>,
    changes: &Changes,
    verb: impl FnOnce(&mut Group<'g, 't>) -> Result<T, QueueError>,
) -> Result<Result<T, QueueError>, QueueError> {
    let before = changes.bytes();
    match verb(group) {
        Err(error @ QueueError::Damaged(_)) if changes.bytes() == before && !changes.are_too_many() => {
            Ok(Err(error))
        }
        done => done.map(Ok),
    }
}

/// Says that a lane cannot be read, and leaves it alone for a while.
pub(super) fn leave(lanes: &mut Lanes, lease: Lease, error: &QueueError, now: Time) {
    tracing::error!(
        webhook = %lease.webhook_id, %error, seconds = ASIDE.as_secs(),
        "a lane cannot be read: it is looked at again later, or once it is woken"
    );
    lanes.put_aside(lease, now);
}
