-- The next page of a lane that is held. ARGV[3…]: lane, fence, after, known scheduled ones, deliveries and
-- bytes of a page, whether scheduled ones are read early. Answers 0 when the lease is lost.
local r = redis.call('HMGET', base .. 'lane:' .. ARGV[3], 'fence', 'holder', 'last')
if r[1] ~= ARGV[4] or r[2] ~= me then return 0 end
-- What happened until now is in this page or after it: the next hint is for what comes then.
redis.call('SREM', base .. 'news:' .. me, ARGV[3])
return page(ARGV[3], tonumber(r[3] or 0), tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[9] == '1',
  tonumber(ARGV[7]), tonumber(ARGV[8]))
