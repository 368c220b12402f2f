-- Lanes whose bulk retry may go on: they are the caller's for a second.
local found = redis.call('ZRANGE', base .. 'bulk', '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)
for _, lane in ipairs(found) do
  redis.call('ZADD', base .. 'bulk', now + 1000, lane)
end
return found
