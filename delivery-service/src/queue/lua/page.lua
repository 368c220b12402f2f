-- A page of a lane: { read_to, more, ms until the next scheduled (-1: none), value, body, value, body … }.
local function page(lane, last, after, known, early, max_count, max_bytes)
  local sched = base .. 'sched:' .. lane
  local picked, found, bytes, more = {}, {}, 0, false

  -- In an index without a record: gone with a part of the store.
  local function lost(entry)
    redis.call('ZREM', open, entry)
    redis.call('ZREM', sched, id_of(entry))
  end

  local limit = known + max_count + 1
  local due
  if early then
    due = redis.call('ZRANGE', sched, 0, limit - 1)
  else
    due = redis.call('ZRANGE', sched, '-inf', now, 'BYSCORE', 'LIMIT', 0, limit)
  end
  local records = values(heads, due)
  for i, id in ipairs(due) do
    local record = records[i]
    if not record then
      redis.call('ZREM', sched, id)
      for _, entry in ipairs(open_from(lane, 0, 4000)) do
        if id_of(entry) == id then lost(entry) end
      end
    else
      local _, size = struct.unpack(MARK, record)
      if #picked == limit - 1 or (#picked > known and bytes + size > max_bytes) then
        more = true
        break
      end
      picked[#picked + 1], found[#found + 1], bytes = id, record, bytes + size
    end
  end

  local room = max_count - math.max(0, #picked - known)
  local read_to, ended, looks = after, false, 0
  while not ended do
    local ask = math.min(room + 1, 1000)
    local entries, ids = open_from(lane, read_to + 1, ask), {}
    for i, entry in ipairs(entries) do ids[i] = id_of(entry) end
    local fresh = values(heads, ids)
    local full = false
    for i, id in ipairs(ids) do
      local record = fresh[i]
      if not record then
        lost(entries[i])
      else
        local place, size, kind = struct.unpack(MARK, record)
        if kind == FRESH then
          full = room == 0 or (#picked > known and bytes + size > max_bytes)
          if full then break end
          picked[#picked + 1], found[#found + 1], bytes = id, record, bytes + size
          room = room - 1
        end
        read_to = place
      end
    end
    looks = looks + 1
    if full or (looks == 8 and #ids == ask) then
      more, ended = true, true
    elseif #ids < ask then
      read_to, ended = math.max(read_to, last), true
    end
  end

  local next = -1
  if not early then
    local first = redis.call('ZRANGE', sched, '(' .. string.format('%.0f', now), '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
    if first[2] then next = first[2] - now end
  end

  local answer = { read_to, more and 1 or 0, next }
  local texts = bodies_of(picked)
  for i = 1, #picked do
    answer[#answer + 1] = found[i]
    answer[#answer + 1] = texts[i]
  end
  return answer
end
