-- The next page of a lane that is held. ARGV[3…]: lane, fence, after, known scheduled ones, deliveries and
-- bytes of a page, whether scheduled ones are read early. Answers 0 when the lease is lost.
local l = lane_at(ARGV[3])
if not is_mine(l, ARGV[4]) then return 0 end
index_lone(ARGV[3], l)
-- What happened until now is in this page or after it: the next hint is for what comes then.
redis.call('SREM', base .. 'news:' .. me, ARGV[3])
return page(ARGV[3], l.last, tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[9] == '1',
  tonumber(ARGV[7]), tonumber(ARGV[8]))
