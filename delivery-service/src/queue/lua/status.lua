-- How a lane stands. ARGV[3]: the lane. Answers { whether it is known, open, failed, ms since the oldest open
-- one was accepted (-1: none) }.
local lane = ARGV[3]
local open = base .. 'open:' .. lane
local oldest, first = -1, redis.call('ZRANGE', open, 0, 0, 'WITHSCORES')
if first[2] then oldest = math.max(0, now - math.floor(first[2] / 2048)) end
return { redis.call('HEXISTS', base .. 'states', lane), redis.call('ZCARD', open),
  redis.call('ZCARD', base .. 'failed:' .. lane), oldest }
