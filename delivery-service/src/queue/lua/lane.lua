-- Lanes: what is kept of each, packed, in one hash of the shard, so that a batch reads and writes all of its
-- lanes with one command each. `hold` is ms, or PARKED; `holder` is NOBODY when it is free; `late` is 1 when some
-- are or were scheduled; `bulk` and `bulk_to` are places, 0 and 0 without a bulk retry. `lone` is the lane's only
-- open delivery while it is the last one that came, and stands nowhere else: most lanes have no more than one at a
-- time, and an entry of the index below costs more than all else that is done for it. Behind these, in `tail`:
-- the license, the memo, and the newest of its history (see history.lua). Lua takes a string byte by byte:
-- what need not be taken apart is not, and the scripts of every delivery take a lane apart into locals.
local states = base .. 'states'
local LANE = '>I8c16I8I4I8I8c16I8I8I4BI4I2I8I8'
-- What an enqueue changes, up to `lone`, and what a settle does, up to `ended`; and where the others begin.
local FRONT, BEHIND, MIDDLE, REST = '>I8c16I8I4I8I8c16', 69, '>I8c16I8I4I8I8c16I8I8I4', 89
local AGE, MEMO_SIZE, LANE_SIZE = 77, 90, 111
-- With what is behind, as strings: where that is short, a string in between would cost as much.
local NEW, SETTLED = FRONT .. 'c0c0', MIDDLE .. 'c0c0'
local PARKED, NOBODY, NONE = 9007199254740991, string.rep(' ', 16), string.rep('\0', 16)

local function lane_of(value)
  local fence, holder, last, n, bytes, hold, lone, done, age, ended, late, memo_size, license_size, bulk, bulk_to, at =
    struct.unpack(LANE, value)
  return { fence = fence, last = last, done = done, hold = hold, lone = lone, bytes = bytes, age = age, n = n,
    ended = ended, bulk = bulk, bulk_to = bulk_to, late = late, license_size = license_size, memo_size = memo_size,
    holder = holder, tail = string.sub(value, at) }
end

-- What stands behind `lone` in a lane in which nothing has happened, but the license; by that one's size.
local blank = {}

local function blank_rest(license)
  local size = #license
  local rest = blank[size]
  if not rest then
    rest = struct.pack('>I8I8I4BI4I2I8I8', 0, 0, 0, 0, 0, size, 0, 0)
    blank[size] = rest
  end
  return rest
end

local function new_lane(license)
  return lane_of(struct.pack(NEW, 0, NOBODY, 0, 0, 0, 0, NONE, blank_rest(license), license))
end

local function packed(l)
  return struct.pack(LANE, l.fence, l.holder, l.last, math.max(0, l.n), math.max(0, l.bytes), l.hold, l.lone,
    l.done, l.age, l.ended, l.late, l.memo_size, l.license_size, l.bulk, l.bulk_to) .. l.tail
end

local function license_of(l) return string.sub(l.tail, 1, l.license_size) end

local function memo_of(l) return string.sub(l.tail, l.license_size + 1, l.license_size + l.memo_size) end

local function recent_of(l) return string.sub(l.tail, l.license_size + l.memo_size + 1) end

local function put(l, memo, recent)
  l.tail = license_of(l) .. memo .. recent
  l.memo_size = #memo
end

-- One lane; nil when it is not known.
local function lane_at(lane)
  local value = redis.call('HGET', states, lane)
  return value and lane_of(value) or nil
end

-- The same for those who only look: nil also when it is damaged, which is no reason not to tell of others.
local function whole_lane_at(lane)
  local value = redis.call('HGET', states, lane)
  return value and #value >= LANE_SIZE and lane_of(value) or nil
end

local function keep(lane, l)
  if l.gone then redis.call('HDEL', states, lane) else redis.call('HSET', states, lane, packed(l)) end
end

-- The fence of a grant after this one. It is no less than the time in microseconds: a store that was emptied, or that a
-- replica which lags has taken over, does not know its last ones, and grants newer ones all the same.
local function fence_after(fence) return fence < micros and micros or fence + 1 end

-- Whether this holder has the lane with this fence.
local function is_mine(l, fence)
  return l and l.holder == me and l.fence == tonumber(fence)
end

-- Open deliveries of all lanes but lone ones are one zset in the order of its members: lane, place (8 bytes), id. An
-- index of its own for each lane would be a key made and removed, and two commands, for a delivery that goes at once.
local open = base .. 'open'

local function member(lane, place, id) return lane .. struct.pack('>I8', place) .. id end

local function id_of(entry) return string.sub(entry, 25) end

local function place_of(entry) return (struct.unpack('>I8', entry, 17)) end

-- Where a lane's open ones begin that have this place or a later one, and where all of them end.
local function from_place(lane, place) return '[' .. lane .. struct.pack('>I8', place) end

local function lane_end(lane) return '(' .. lane .. '\255' end

-- The first of a lane's open ones from a place on.
local function open_from(lane, place, count)
  return redis.call('ZRANGE', open, from_place(lane, place), lane_end(lane), 'BYLEX', 'LIMIT', 0, count)
end

-- Puts a lone one among the others: who reads a lane's open ones does this first.
local function index_lone(lane, l)
  if l.lone == NONE then return end
  redis.call('ZADD', open, '0', member(lane, l.last, l.lone))
  l.lone = NONE
  keep(lane, l)
end

local function has_open(lane) return #open_from(lane, 0, 1) > 0 end

-- Lanes by account, in order of their members: license, a zero, lane.
local accounts = base .. 'accounts'

local function of_account(license, lane) return license .. '\0' .. lane end
