"""The lexicon: everyday words and all names of the tables, English and Chinese, one to one.

    translate("cat", "zh")              # "猫"; Undefined if the word is unknown or Chinese already
    category("猫")                      # "animal"
    words_of("colour", "zh")            # ("红色", "蓝色", ...)
    find("mice")                        # None: only base forms are here

What it is. About 380 words in 18 categories, each one word in both languages: nouns with their plural, verbs with the
third person and the past, adjectives in pairs of opposites with what they say about a thing. Behind them stand the
names of `instruct.world.tables`, so that whatever an operation answers with can be translated.

Why one to one. An English word stands for one Chinese word and back. So translating there and back changes nothing, a
translation is right or wrong, and a word with two meanings cannot be misread: "orange" is the fruit, not the colour.
Where one form has two meanings ("light", "cook"), only one of them is here. Case counts: "polish" is not known.

What it leaves out. Inflected forms as words of their own, words with several translations, and most of both languages.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from instruct.world import tables
from instruct.world.operation import Undefined, language_of
from instruct.world.tables import Pair, rows


@dataclass(frozen=True)
class Word:
    """A word or name in both languages, in its base form.

    category   its key in `CATEGORY_NAMES`; "" for words that name no thing of one (categories themselves)
    plural     of an English noun; "" where it has none (bread, France)
    third      of an English verb: "eats"
    past       of an English verb: "ate"
    opposite   of an adjective
    sentiment  of an adjective: 1 positive, -1 negative, 0 neither; None for everything else
    """

    name: Pair
    category: str = ""
    plural: str = ""
    third: str = ""
    past: str = ""
    opposite: Pair | None = None
    sentiment: int | None = None


#: What a category is called; the keys are those of `Word.category`.
CATEGORY_NAMES = {
    pair.en: pair
    for pair in (
        Pair("animal", "动物"), Pair("fruit", "水果"), Pair("vegetable", "蔬菜"), Pair("colour", "颜色"),
        Pair("food", "食物"), Pair("beverage", "饮料"), Pair("body", "身体"), Pair("family", "家庭"),
        Pair("job", "职业"), Pair("vehicle", "交通工具"), Pair("furniture", "家具"), Pair("tool", "工具"),
        Pair("clothing", "服装"), Pair("nature", "自然"), Pair("building", "建筑"), Pair("instrument", "乐器"),
        Pair("verb", "动词"), Pair("adjective", "形容词"), Pair("sound", "声音"), Pair("season", "季节"),
        Pair("country", "国家"), Pair("city", "城市"), Pair("currency", "货币"), Pair("continent", "大洲"),
        Pair("language", "语言"), Pair("element", "元素"), Pair("month", "月份"), Pair("weekday", "星期"),
        Pair("planet", "行星"),
    )
}  # fmt: skip
SENTIMENTS = {1: Pair("positive", "积极"), 0: Pair("neutral", "中性"), -1: Pair("negative", "消极")}

_NOUNS = {
    "fruit": """
        apple apples 苹果          banana bananas 香蕉          pear pears 梨            peach peaches 桃子
        grape grapes 葡萄          lemon lemons 柠檬            orange oranges 橙子      cherry cherries 樱桃
        strawberry strawberries 草莓  mango mangoes 芒果        watermelon watermelons 西瓜  plum plums 李子
        pineapple pineapples 菠萝  coconut coconuts 椰子        lychee lychees 荔枝""",
    "vegetable": """
        potato potatoes 土豆       tomato tomatoes 西红柿       carrot carrots 胡萝卜    onion onions 洋葱
        cabbage cabbages 白菜      cucumber cucumbers 黄瓜      pumpkin pumpkins 南瓜    bean beans 豆子
        radish radishes 萝卜       spinach - 菠菜               celery - 芹菜""",
    "colour": """
        red - 红色  blue - 蓝色  green - 绿色  yellow - 黄色  black - 黑色  white - 白色  purple - 紫色  grey - 灰色
        brown - 棕色  pink - 粉色""",
    "food": """
        bread - 面包               rice - 米饭                  meat - 肉                cheese - 奶酪
        butter - 黄油              honey - 蜂蜜                 salt - 盐                sugar - 糖
        egg eggs 鸡蛋              soup soups 汤                cake cakes 蛋糕          noodle noodles 面条
        dumpling dumplings 饺子    sausage sausages 香肠        sandwich sandwiches 三明治  biscuit biscuits 饼干
        salad salads 沙拉          porridge - 粥""",
    "beverage": """
        water - 水  milk - 牛奶  tea - 茶  coffee - 咖啡  juice - 果汁  wine - 葡萄酒  beer - 啤酒""",
    "body": """
        hand hands 手              foot feet 脚                 head heads 头            eye eyes 眼睛
        ear ears 耳朵              nose noses 鼻子              mouth mouths 嘴          arm arms 手臂
        leg legs 腿                finger fingers 手指          toe toes 脚趾            tooth teeth 牙齿
        neck necks 脖子            shoulder shoulders 肩膀      knee knees 膝盖          heart hearts 心脏
        stomach stomachs 胃        tongue tongues 舌头""",
    "family": """
        father fathers 父亲        mother mothers 母亲          brother brothers 兄弟    sister sisters 姐妹
        son sons 儿子              daughter daughters 女儿      uncle uncles 叔叔        aunt aunts 姑姑
        husband husbands 丈夫      wife wives 妻子              nephew nephews 侄子      niece nieces 侄女
        grandfather grandfathers 祖父  grandmother grandmothers 祖母""",
    "job": """
        doctor doctors 医生        teacher teachers 老师        farmer farmers 农民      nurse nurses 护士
        chef chefs 厨师            driver drivers 司机          lawyer lawyers 律师      soldier soldiers 士兵
        singer singers 歌手        dancer dancers 舞蹈家        painter painters 画家    writer writers 作家
        judge judges 法官          baker bakers 面包师          tailor tailors 裁缝      pilot pilots 飞行员
        sailor sailors 水手        engineer engineers 工程师    scientist scientists 科学家  hunter hunters 猎人""",
    "vehicle": """
        car cars 汽车              bus buses 公交车             train trains 火车        bicycle bicycles 自行车
        ship ships 轮船            boat boats 小船              plane planes 飞机        truck trucks 卡车
        taxi taxis 出租车          tram trams 电车              motorcycle motorcycles 摩托车
        helicopter helicopters 直升机  submarine submarines 潜艇  rocket rockets 火箭""",
    "furniture": """
        chair chairs 椅子          table tables 桌子            bed beds 床              sofa sofas 沙发
        shelf shelves 架子         desk desks 书桌              lamp lamps 台灯          mirror mirrors 镜子
        wardrobe wardrobes 衣柜    bench benches 长凳           stool stools 凳子        cupboard cupboards 橱柜""",
    "tool": """
        hammer hammers 锤子        knife knives 刀              axe axes 斧头            spade spades 铲子
        brush brushes 刷子         needle needles 针            rope ropes 绳子          ladder ladders 梯子
        screwdriver screwdrivers 螺丝刀  broom brooms 扫帚      bucket buckets 桶        pen pens 钢笔
        pencil pencils 铅笔        ruler rulers 尺子            drill drills 电钻""",
    "clothing": """
        shirt shirts 衬衫          hat hats 帽子                coat coats 大衣          dress dresses 连衣裙
        skirt skirts 裙子          shoe shoes 鞋                sock socks 袜子          glove gloves 手套
        scarf scarves 围巾         belt belts 腰带              sweater sweaters 毛衣    jacket jackets 夹克
        tie ties 领带              boot boots 靴子              uniform uniforms 制服""",
    "nature": """
        sun suns 太阳              moon moons 月亮              star stars 星星          river rivers 河
        lake lakes 湖              sea seas 海                  mountain mountains 山    forest forests 森林
        tree trees 树              flower flowers 花            leaf leaves 叶子         grass - 草
        stone stones 石头          cloud clouds 云              rain - 雨                snow - 雪
        wind winds 风              fire fires 火                desert deserts 沙漠      island islands 岛
        valley valleys 山谷        beach beaches 海滩           storm storms 风暴        waterfall waterfalls 瀑布""",
    "building": """
        house houses 房子          school schools 学校          hospital hospitals 医院  church churches 教堂
        bridge bridges 桥          library libraries 图书馆     museum museums 博物馆    hotel hotels 旅馆
        bank banks 银行            factory factories 工厂       castle castles 城堡      tower towers 塔
        temple temples 寺庙        prison prisons 监狱          theatre theatres 剧院""",
    "instrument": """
        piano pianos 钢琴          guitar guitars 吉他          violin violins 小提琴    drum drums 鼓
        flute flutes 长笛          trumpet trumpets 小号        harp harps 竖琴          cello cellos 大提琴""",
}

_VERBS = """
    eat eats ate 吃            drink drinks drank 喝         buy buys bought 买         sell sells sold 卖
    wash washes washed 洗      draw draws drew 画            take takes took 拿         push pushes pushed 推
    pull pulls pulled 拉       throw throws threw 扔         cut cuts cut 切            kick kicks kicked 踢
    steal steals stole 偷      catch catches caught 抓       boil boils boiled 煮       touch touches touched 摸
    help helps helped 帮助     chase chases chased 追赶      carry carries carried 搬   watch watches watched 看
    read reads read 读         hide hides hid 藏             repair repairs repaired 修理  use uses used 用
    write writes wrote 写      run runs ran 跑               walk walks walked 走       jump jumps jumped 跳
    swim swims swam 游泳       sleep sleeps slept 睡觉       fly flies flew 飞          sit sits sat 坐
    stand stands stood 站      laugh laughs laughed 笑       cry cries cried 哭         dance dances danced 跳舞
    sing sings sang 唱         speak speaks spoke 说         think thinks thought 想    know knows knew 知道
    love loves loved 爱        hate hates hated 讨厌         find finds found 找到      lose loses lost 丢失
    forget forgets forgot 忘记  remember remembers remembered 记得  win wins won 赢    begin begins began 开始
    teach teaches taught 教    learn learns learned 学习     build builds built 建造    sew sews sewed 缝"""

#: Pairs of opposites; "+" where the first is positive and the second negative, "." where neither is.
_ADJECTIVES = """
    big small 大 小 .                   long short 长 短 .                  high low 高 低 .
    fast slow 快 慢 .                   hot cold 热 冷 .                    new old 新 旧 .
    good bad 好 坏 +                    happy sad 快乐 悲伤 +               strong weak 强壮 虚弱 +
    rich poor 富有 贫穷 +               clean dirty 干净 肮脏 +             easy difficult 容易 困难 .
    light heavy 轻 重 .                 bright dark 明亮 黑暗 .             full empty 满 空 .
    dry wet 干 湿 .                     wide narrow 宽 窄 .                 thick thin 厚 薄 .
    hard soft 硬 软 .                   deep shallow 深 浅 .                beautiful ugly 美丽 丑陋 +
    brave cowardly 勇敢 懦弱 +          clever stupid 聪明 愚蠢 +           safe dangerous 安全 危险 +
    cheap expensive 便宜 昂贵 .         early late 早 晚 .                  quiet noisy 安静 吵闹 .
    kind cruel 善良 残忍 +              fresh rotten 新鲜 腐烂 +            honest dishonest 诚实 不诚实 +
    polite rude 礼貌 粗鲁 +             diligent lazy 勤劳 懒惰 +           true false 真 假 .
    near far 近 远 .                    sharp blunt 锋利 钝 .               healthy sick 健康 生病 +
    fierce gentle 凶猛 温和 .           simple complex 简单 复杂 .          smooth rough 光滑 粗糙 .
    public private 公共 私人 ."""


# Words ---------------------------------------------------------------------------------------------------------------


def _nouns(category: str, text: str) -> list[Word]:
    return [
        Word(Pair(english, chinese), category, plural="" if plural == "-" else plural)
        for english, plural, chinese in rows(text, 3)
    ]


def _verbs(text: str) -> list[Word]:
    return [Word(Pair(base, zh), "verb", third=third, past=past) for base, third, past, zh in rows(text, 4)]


def _adjectives(text: str) -> list[Word]:
    words = []
    for row in rows(text, 5):
        one, other, sentiment = Pair(row[0], row[2]), Pair(row[1], row[3]), int(row[4] == "+")
        words += [
            Word(one, "adjective", opposite=other, sentiment=sentiment),
            Word(other, "adjective", opposite=one, sentiment=-sentiment),
        ]
    return words


WORDS: tuple[Word, ...] = (
    *(Word(animal.name, "animal", plural=animal.plural) for animal in tables.ANIMALS),
    *(word for category, text in _NOUNS.items() for word in _nouns(category, text)),
    *_verbs(_VERBS),
    *_adjectives(_ADJECTIVES),
)
#: The categories of everyday words, those of `WORDS`.
CATEGORIES: tuple[str, ...] = tuple(dict.fromkeys(word.category for word in WORDS))


def _names() -> tuple[Word, ...]:
    """Everything else that has a translation: names of the tables, and the words that operations answer with."""
    pairs = [
        *((each.young, "animal") for each in tables.ANIMALS if each.young),
        *((each.group, "animal") for each in tables.ANIMALS),
        *((each.sound, "sound") for each in tables.ANIMALS if each.sound),
        *((each.season, "season") for each in tables.MONTHS),
        *((each.name, "country") for each in tables.COUNTRIES),
        *((each.capital, "city") for each in tables.COUNTRIES),
        *((each.currency, "currency") for each in tables.COUNTRIES),
        *((each.continent, "continent") for each in tables.COUNTRIES),
        *((each.language, "language") for each in tables.COUNTRIES),
        *((each.name, "element") for each in tables.ELEMENTS),
        *((each.name, "month") for each in tables.MONTHS),
        *((each.name, "weekday") for each in tables.WEEKDAYS),
        *((each.name, "planet") for each in tables.PLANETS),
        *((each, "") for each in CATEGORY_NAMES.values()),
        *((each, "") for each in SENTIMENTS.values()),
    ]
    return tuple(Word(pair, category) for pair, category in dict.fromkeys(pairs))


#: Names of the tables, and the words that operations answer with; `WORDS` and these together are all that is known.
NAMES: tuple[Word, ...] = _names()


# Looking up ----------------------------------------------------------------------------------------------------------


@cache
def _by_text() -> dict[str, Word]:
    return {text: word for word in (*WORDS, *NAMES) for text in word.name}


def find(word: str) -> Word | None:
    """The entry of a word of either language, in its base form."""
    return _by_text().get(word)


def known(word: str) -> Word:
    """The same; raises Undefined for an unknown word."""
    entry = find(word)
    if entry is None:
        raise Undefined(f"{word!r} is not in the lexicon")
    return entry


def translate(word: str, language: str) -> str:
    """The word in `language`. Raises Undefined where it is unknown or in that language already."""
    if language_of(word) == language:
        raise Undefined(f"{word!r} needs no translation")
    return known(word).name.text(language)


def category(word: str) -> str:
    """The key of its category in `CATEGORY_NAMES`. Raises Undefined where there is none."""
    entry = known(word)
    if not entry.category:
        raise Undefined(f"{word!r} is in no category")
    return entry.category


@cache
def words_of(category: str, language: str) -> tuple[str, ...]:
    """All words and names of a category, in the order of the tables. Raises KeyError for an unknown category."""
    found = tuple(word.name.text(language) for word in (*WORDS, *NAMES) if word.category == category)
    if not found:
        raise KeyError(category)
    return found
