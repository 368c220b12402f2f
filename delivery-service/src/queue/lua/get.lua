-- A delivery's record and body. ARGV[3]: its id.
return { redis.call('HGET', heads, ARGV[3]), redis.call('HGET', bodies, ARGV[3]) }
