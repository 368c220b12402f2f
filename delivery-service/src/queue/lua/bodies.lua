-- Bodies, by the id of their delivery. One that several deliveries of an event share is kept once, by what their
-- ids have in common: all but the last byte, which is 0 in the id of a delivery that shares with none. `shares`
-- says how many still need it.
local shares = base .. 'shares'

-- What the id has in common with others; nil when that is nothing.
local function shared(id)
  if string.byte(id, 16) > 0 then return string.sub(id, 1, 15) end
end

local function body_of(id) return shared(id) or id end

local function bodies_of(ids)
  local fields = {}
  for i = 1, #ids do fields[i] = body_of(ids[i]) end
  return values(bodies, fields)
end

-- How often each is in a list, and all of them in turn.
local function tally(list)
  local counts, all, n = {}, {}, 0
  for i = 1, #list do
    local field = list[i]
    if counts[field] then
      counts[field] = counts[field] + 1
    else
      n = n + 1
      counts[field], all[n] = 1, field
    end
  end
  return counts, all
end

-- Says that so many more need these.
local function share(list)
  local counts, all = tally(list)
  local left = {}
  for i, had in ipairs(values(shares, all)) do
    left[i * 2 - 1], left[i * 2] = all[i], (had or 0) + counts[all[i]]
  end
  each('HSET', shares, left)
end

-- Takes away the bodies of deliveries that have one, each once: a shared one goes with the last that needs it.
local function drop(ids)
  -- Of many it is worth asking whether any are shared at all.
  if #ids > 3 and redis.call('EXISTS', shares) == 0 then
    each('HDEL', bodies, ids)
    return
  end
  local gone, sharing, g, s = {}, {}, 0, 0
  for i = 1, #ids do
    local id = ids[i]
    local field = shared(id)
    if field then
      s = s + 1
      sharing[s] = field
    else
      g = g + 1
      gone[g] = id
    end
  end
  if s > 0 then
    local counts, all = tally(sharing)
    local left, over = {}, {}
    for i, had in ipairs(values(shares, all)) do
      local field = all[i]
      local needed = (had or 0) - counts[field]
      if needed > 0 then
        left[#left + 1], left[#left + 2] = field, needed
      else
        over[#over + 1] = field
        g = g + 1
        gone[g] = field
      end
    end
    each('HSET', shares, left)
    each('HDEL', shares, over)
  end
  each('HDEL', bodies, gone)
end
