-- Makes lanes due now. ARGV[3]: a lane, or "" for up to 500 that are parked. Answers how many it woke.
local list = { ARGV[3] }
if ARGV[3] == '' then list = redis.call('SPOP', base .. 'parked', 500) end
for _, lane in ipairs(list) do
  local key = base .. 'lane:' .. lane
  local r = redis.call('HMGET', key, 'holder', 'hold')
  local holder = r[1] or ''
  if ARGV[3] ~= '' or r[2] == 'inf' then
    if r[2] and r[2] ~= '0' then redis.call('HSET', key, 'hold', 0) end
    redis.call('SREM', base .. 'parked', lane)
    if holder == '' then
      redis.call('ZADD', lanes, 'XX', now, lane)
    else
      redis.call('SADD', base .. 'news:' .. holder, lane .. 'w')
      hint(holder, lane)
    end
  end
end
return #list
