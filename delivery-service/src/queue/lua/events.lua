-- Event ids that lanes have had, in buckets: hashes from digest to a delivery's id and when it was noted (4
-- bytes, ms since the bucket's start). `evs` has the buckets by their start, each with when it is closed:
-- no more is noted in it from then on, and when the window has passed since it goes whole.
local function forget_events(window)
  local buckets, living = redis.call('ZRANGE', base .. 'evs', 0, -1, 'WITHSCORES'), {}
  for i = 1, #buckets, 2 do
    if buckets[i + 1] + window <= now then
      redis.call('UNLINK', base .. 'ev:' .. buckets[i])
      redis.call('ZREM', base .. 'evs', buckets[i])
    else
      living[#living + 1], living[#living + 2] = buckets[i], tonumber(buckets[i + 1])
    end
  end
  return living
end

-- What is known of the digests from ARGV[from] to ARGV[to], and the bucket that notes others.
local function events(window, from, to)
  local living, known = forget_events(window), {}
  for i = 1, #living, 2 do
    local key, start = base .. 'ev:' .. living[i], tonumber(living[i])
    for part = from, to, 4000 do
      local found = redis.call('HMGET', key, unpack(ARGV, part, math.min(part + 3999, to)))
      for k = 1, #found do
        local value = found[k]
        if value and struct.unpack('>I4', value, 17) + start + window > now then
          known[ARGV[part + k - 1]] = string.sub(value, 1, 16)
        end
      end
    end
  end
  local name, closed = living[#living - 1], living[#living]
  if not name or closed <= now then
    name = string.format('%.0f', now)
    redis.call('ZADD', base .. 'evs', now + math.ceil(window / 2), name)
  end
  local since = struct.pack('>I4', math.max(0, math.min(now - name, 4294967295)))
  return known, base .. 'ev:' .. name, since
end
