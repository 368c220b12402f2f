-- Ends a bulk retry. ARGV[3]: the lane.
redis.call('HDEL', base .. 'lane:' .. ARGV[3], 'bulk', 'bulk_to')
return redis.call('ZREM', base .. 'bulk', ARGV[3])
