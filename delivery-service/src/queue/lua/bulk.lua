-- Notes a bulk retry. ARGV[3…]: the lane, from place, to place . Answers how many
-- failed ones it is of; -1 when one is under way.
local lane, from, to = ARGV[3], ARGV[4], ARGV[5]
local key = base .. 'lane:' .. lane
local r = redis.call('HMGET', key, 'last', 'bulk')
if not r[1] then return 0 end
if (r[2] or '') ~= '' then return -1 end
if tonumber(to) > tonumber(r[1]) then to = string.format('%.0f', r[1] + 1) end
local count = redis.call('ZCOUNT', base .. 'failed:' .. lane, from, '(' .. to)
if count > 0 then
  redis.call('HSET', key, 'bulk', from, 'bulk_to', to)
  redis.call('ZADD', base .. 'bulk', now, lane)
end
return count
