-- A delivery's record and body. ARGV[3]: its id. A shared body may be there for others alone.
local id = ARGV[3]
local record = redis.call('HGET', heads, id)
local has = record and (not shared(id) or struct.unpack('>I4', record, 9) > 0)
return { record, has and redis.call('HGET', bodies, body_of(id)) }
