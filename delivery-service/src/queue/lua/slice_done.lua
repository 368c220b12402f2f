-- Makes failed deliveries due and moves their bulk retry on. ARGV[3…]: the lane, the place that it stood at, the
-- place to go on at ("": it is over); then for each: id, record as it was read, renewed head, attempts.
-- Answers the ids that are due now; of none when another has moved it on.
local lane, from, to = ARGV[3], ARGV[4], ARGV[5]
local key = base .. 'lane:' .. lane
local r = redis.call('HMGET', key, 'holder', 'hold', 'n', 'bytes', 'bulk')
if not r[5] or tonumber(r[5]) ~= tonumber(from) then return {} end
if to == '' then
  redis.call('HDEL', key, 'bulk', 'bulk_to')
  redis.call('ZREM', base .. 'bulk', lane)
else
  redis.call('HSET', key, 'bulk', to)
end

local done, records, places, times, bytes = {}, {}, {}, {}, 0
for i = 6, #ARGV, 4 do
  local id = ARGV[i]
  if redis.call('HGET', heads, id) == ARGV[i + 1] then
    local place, size = struct.unpack(MARK, ARGV[i + 1])
    done[#done + 1] = id
    records[#records + 1] = id
    records[#records + 1] = struct.pack(MARK, place, size, SCHEDULED, 0, tonumber(ARGV[i + 3])) .. ARGV[i + 2]
    places[#places + 1], places[#places + 2] = place, id
    times[#times + 1], times[#times + 2] = now, id
    bytes = bytes + size
  end
end
if #done == 0 then return done end
each('HSET', heads, records)
each('ZREM', base .. 'failed:' .. lane, done)
each('ZADD', base .. 'open:' .. lane, places)
each('ZADD', base .. 'sched:' .. lane, times)
redis.call('HSET', key, 'n', (r[3] or 0) + #done, 'bytes', (r[4] or 0) + bytes, 'late', 1)
if (r[1] or '') ~= '' then
  if redis.call('SADD', base .. 'news:' .. r[1], lane) == 1 then hint(r[1], lane) end
elseif r[2] ~= 'inf' then
  redis.call('ZADD', lanes, 'LT', math.max(now, tonumber(r[2] or 0)), lane)
end
return done
