-- How a lane stands. ARGV[3]: the lane. Answers { whether it is known, open, failed, ms since the oldest open
-- one was accepted (-1: none) }.
local lane = ARGV[3]
local oldest, first = -1, open_from(lane, 0, 1)
if first[1] then oldest = math.max(0, now - math.floor(place_of(first[1]) / 2048)) end
return { redis.call('HEXISTS', base .. 'states', lane), redis.call('ZLEXCOUNT', open, '[' .. lane, lane_end(lane)),
  redis.call('ZCARD', base .. 'failed:' .. lane), oldest }
