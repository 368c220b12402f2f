-- What every script begins with: the shard, the time, and commands that take many arguments.
-- KEYS[1] is what all keys of the shard begin with ("P:{qN}:"), KEYS[2] is there for clusters alone (redis_call.rs),
-- ARGV[1] the holder that asks, ARGV[2] the milliseconds that tests add to the time. See redis.rs for the keys.
local base, me = KEYS[1], ARGV[1]
local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2] + ARGV[2] * 1000
local now = math.floor(micros / 1000)
local heads, bodies, lanes = base .. 'heads', base .. 'bodies', base .. 'lanes'

-- What stands before a head: place, bytes of the body, kind, flags, renewals.
local MARK = '>I8I4BBI4'
local FRESH, SCHEDULED, ENDED, FAILED = 0, 1, 2, 3
local RENEW, WITHDRAWN = 1, 4

-- Lua's stack takes some 8,000 values: longer lists go in parts.
local function each(command, key, list)
  local n = #list
  if n == 0 then return 0 end
  if n <= 4000 then return redis.call(command, key, unpack(list)) end
  local sum = 0
  for i = 1, n, 4000 do
    sum = sum + redis.call(command, key, unpack(list, i, math.min(i + 3999, n)))
  end
  return sum
end

local function values(key, ids)
  local n = #ids
  if n == 0 then return {} end
  if n <= 4000 then return redis.call('HMGET', key, unpack(ids)) end
  local found = {}
  for i = 1, n, 4000 do
    for _, value in ipairs(redis.call('HMGET', key, unpack(ids, i, math.min(i + 3999, n)))) do
      found[#found + 1] = value
    end
  end
  return found
end

local function reason(failure)
  return type(failure) == 'table' and failure.err or tostring(failure)
end

-- Tells a holder that a lane of its has come to its news. Where that is not allowed its claims find it.
local function hint(holder, lane)
  redis.pcall('SPUBLISH', base .. 'hints:' .. holder, lane)
end
